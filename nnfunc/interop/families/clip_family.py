"""CLIP of transformers: both towers, or one of them."""

import inspect
from collections.abc import Mapping
from typing import Any

from nnfunc import check
from nnfunc.interop.name_table import CONV, LINEAR, NORM, SAME, TABLE, Row
from nnfunc.interop.published_config import ACTIVATIONS, Family, PublishedConfig, Setting, arguments_of, without
from nnfunc.models.clip import clip, clip_text
from nnfunc.models.vit import vit


def block_rows(prefix: str) -> list[Row]:
    layer = f"{prefix}.encoder.layers.{{i}}"
    return [
        (f"{layer}.layer_norm1", "blocks/attend_norm", NORM),
        (f"{layer}.self_attn.q_proj", "blocks/attend/query", LINEAR),
        (f"{layer}.self_attn.k_proj", "blocks/attend/key", LINEAR),
        (f"{layer}.self_attn.v_proj", "blocks/attend/value", LINEAR),
        (f"{layer}.self_attn.out_proj", "blocks/attend/out", LINEAR),
        (f"{layer}.layer_norm2", "blocks/mlp_norm", NORM),
        (f"{layer}.mlp.fc1", "blocks/mlp/up", LINEAR),
        (f"{layer}.mlp.fc2", "blocks/mlp/down", LINEAR),
    ]


TEXT_ROWS: list[Row] = [
    ("text_model.embeddings.token_embedding", "tokens", TABLE),
    ("text_model.embeddings.position_embedding", "positions", TABLE),
    *block_rows("text_model"),
    ("text_model.final_layer_norm", "norm", NORM),
    ("text_projection", "head", LINEAR),
]
VISION_ROWS: list[Row] = [
    ("vision_model.embeddings.class_embedding", "token", {"": ("weight", SAME)}),
    ("vision_model.embeddings.patch_embedding", "patches", CONV),
    ("vision_model.embeddings.position_embedding", "positions", TABLE),
    ("vision_model.pre_layrnorm", "pre_norm", NORM),  # so spelled there
    *block_rows("vision_model"),
    ("vision_model.post_layernorm", "norm", NORM),
    ("visual_projection", "head", LINEAR),
]
SETTINGS = [
    Setting("hidden_size", "dim"),
    Setting("num_hidden_layers", "layers"),
    Setting("num_attention_heads", "heads"),
    Setting("intermediate_size", "hidden"),
    Setting("hidden_act", "activation", ACTIVATIONS, "quick_gelu"),
    Setting("layer_norm_eps", "eps", float, 1e-5),
]
FIRST_END = 2
"""The end token in the config of the first models, which is not theirs: the largest id is."""


def read_text(config: PublishedConfig) -> dict[str, Any]:
    end = config.read(Setting("eos_token_id", "end", int, 49407))
    return {} if end == FIRST_END else {"end": end}


def hidden_size(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"intermediate_size": arguments["hidden"] or 4 * arguments["dim"]}


CLIP_TEXT = Family(
    name="clip_text_model",
    factory=clip_text,
    settings=[
        *SETTINGS,
        Setting("vocab_size", "vocab_size", int, 49408),
        Setting("max_position_embeddings", "block_size", int, 77),
        Setting("projection_dim", "out_dim", int, 512),
    ],
    rows=TEXT_ROWS,
    architectures={"CLIPTextModel": {"out_dim": None}, "CLIPTextModelWithProjection": {}},
    read=read_text,
    write=lambda a: hidden_size(a) | {"eos_token_id": FIRST_END if a["end"] is None else a["end"]},
    prefix="text_model.",
    section="text_config",
    ignored=("*.position_ids", "vision_model.*", "visual_projection.*", "logit_scale"),
)


def read_vision(config: PublishedConfig) -> dict[str, Any]:
    sizes = {"image_size": config.get("image_size", 224), "patch": config.get("patch_size", 32)}
    return sizes | {"pre_norm": True, "patch_bias": False, "head_bias": False}


def write_vision(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, pool="class", pre_norm=True, patch_bias=False, head_bias=False)
    return hidden_size(arguments) | {"image_size": arguments["image_size"], "patch_size": arguments["patch"]}


CLIP_VISION = Family(
    name="clip_vision_model",
    factory=vit,
    settings=[*SETTINGS, Setting("num_channels", "in_dim", int, 3), Setting("projection_dim", "classes", int, 512)],
    rows=VISION_ROWS,
    architectures={"CLIPVisionModel": {"classes": None}, "CLIPVisionModelWithProjection": {}},
    read=read_vision,
    write=write_vision,
    prefix="vision_model.",
    section="vision_config",
    ignored=("*.position_ids", "text_model.*", "text_projection.*", "logit_scale"),
)


def read_clip(config: PublishedConfig) -> dict[str, Any]:
    return {"image": vit(**CLIP_VISION.arguments(config)), "text": clip_text(**CLIP_TEXT.arguments(config))}


def write_clip(arguments: Mapping[str, Any]) -> dict[str, Any]:
    towers = {"vision_config": (CLIP_VISION, vit, "image"), "text_config": (CLIP_TEXT, clip_text, "text")}
    config: dict[str, Any] = {}
    for section, (family, factory, name) in towers.items():
        actual, values = arguments_of(arguments[name])
        if actual is not inspect.unwrap(factory):
            expected = f"{name} should be the result of {factory.__name__}"
            check.fail("to_pretrained", expected=expected, actual=actual.__name__)
        config[section] = family.config(values)
    return config | {"projection_dim": config["text_config"]["projection_dim"]}


CLIP = Family(
    name="clip",
    factory=clip,
    settings=[],
    rows=[
        *((name, f"image/{path}", leaves) for name, path, leaves in VISION_ROWS),
        *((name, f"text/{path}", leaves) for name, path, leaves in TEXT_ROWS),
        ("logit_scale", "factor/scale", {"": ("", SAME)}),
    ],
    architectures={"CLIPModel": {}},
    read=read_clip,
    write=write_clip,
    ignored=("*.position_ids",),
)
