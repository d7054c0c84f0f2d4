"""Vision Transformers: ViT and DeiT of transformers, and the names of timm and torchvision, which have no config."""

from collections.abc import Mapping
from typing import Any

from nnfunc import check
from nnfunc.interop.families.timm_configs import read_timm
from nnfunc.interop.name_table import CONV, IN_PROJECTION, LINEAR, NORM, Change, Row, vector
from nnfunc.interop.published_config import (
    ACTIVATIONS,
    Family,
    PublishedConfig,
    Setting,
    read_head,
    without,
    write_head,
)
from nnfunc.models.mixer import mixer
from nnfunc.models.vit import vit

TOKEN = {"": ("weight", vector(3))}
POSITIONS = {"": ("weight", Change(lambda x: x[0], lambda x: x[None]))}


def rows(prefix: str) -> list[Row]:
    layer = f"{prefix}.encoder.layer.{{i}}"
    return [
        (f"{prefix}.embeddings.cls_token", "token", TOKEN),
        (f"{prefix}.embeddings.distillation_token", "second_token", TOKEN),
        (f"{prefix}.embeddings.position_embeddings", "positions", POSITIONS),
        (f"{prefix}.embeddings.patch_embeddings.projection", "patches", CONV),
        (f"{layer}.layernorm_before", "blocks/attend_norm", NORM),
        (f"{layer}.attention.attention.query", "blocks/attend/query", LINEAR),
        (f"{layer}.attention.attention.key", "blocks/attend/key", LINEAR),
        (f"{layer}.attention.attention.value", "blocks/attend/value", LINEAR),
        (f"{layer}.attention.output.dense", "blocks/attend/out", LINEAR),
        (f"{layer}.layernorm_after", "blocks/mlp_norm", NORM),
        (f"{layer}.intermediate.dense", "blocks/mlp/up", LINEAR),
        (f"{layer}.output.dense", "blocks/mlp/down", LINEAR),
        (f"{prefix}.layernorm", "norm", NORM),
    ]


def read_image(config: PublishedConfig) -> dict[str, Any]:
    sizes = {"image_size": config.get("image_size", 224), "patch": config.get("patch_size", 16)}
    pairs = {name: tuple(size) if isinstance(size, list) else size for name, size in sizes.items()}
    return read_head(config) | pairs


def write_image(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, pre_norm=False, patch_bias=True, head_bias=True)
    sizes = {"image_size": arguments["image_size"], "patch_size": arguments["patch"]}
    return write_head(arguments) | sizes | {"intermediate_size": arguments["hidden"] or 4 * arguments["dim"]}


VIT = Family(
    name="vit",
    factory=vit,
    settings=[
        Setting("num_channels", "in_dim", int, 3),
        Setting("hidden_size", "dim"),
        Setting("num_hidden_layers", "layers"),
        Setting("num_attention_heads", "heads"),
        Setting("intermediate_size", "hidden"),
        Setting("hidden_act", "activation", ACTIVATIONS, "gelu"),
        Setting("layer_norm_eps", "eps", float, 1e-12),
    ],
    rows=[*rows("vit"), ("classifier", "head", LINEAR)],
    architectures={"ViTModel": {"classes": None, "pool": "class"}, "ViTForImageClassification": {"pool": "class"}},
    fixed={"qkv_bias": True},
    read=read_image,
    write=lambda arguments: without(arguments, pool="class") or write_image(arguments),
    prefix="vit.",
    ignored=("*pooler.*",),
)


def read_deit(config: PublishedConfig) -> dict[str, Any]:
    """The head of the first token alone, beside a second token, is no model here."""
    if config.architecture == "DeiTForImageClassification":
        expected = "architectures should be ['DeiTForImageClassificationWithTeacher'], with both heads"
        check.fail(config.where, expected=expected, actual=config["architectures"])
    return read_image(config)


DEIT = VIT._replace(
    name="deit",
    rows=[*rows("deit"), ("cls_classifier", "head", LINEAR), ("distillation_classifier", "second_head", LINEAR)],
    architectures={
        "DeiTModel": {"classes": None, "pool": "distilled"},
        "DeiTForImageClassificationWithTeacher": {"pool": "distilled"},
    },
    read=read_deit,
    write=lambda arguments: without(arguments, pool="distilled") or write_image(arguments),
    prefix="deit.",
    ignored=("*pooler.*",),
)


TIMM_VIT = Family(
    name="timm-vit",
    factory=vit,
    settings=[],
    rows=[
        ("cls_token", "token", TOKEN),
        ("dist_token", "second_token", TOKEN),
        ("pos_embed", "positions", POSITIONS),
        ("patch_embed.proj", "patches", CONV),
        ("norm_pre", "pre_norm", NORM),
        ("blocks.{i}.norm1", "blocks/attend_norm", NORM),
        ("blocks.{i}.attn.qkv", "blocks/attend/query|key|value", LINEAR),
        ("blocks.{i}.attn.proj", "blocks/attend/out", LINEAR),
        ("blocks.{i}.norm2", "blocks/mlp_norm", NORM),
        ("blocks.{i}.mlp.fc1", "blocks/mlp/up", LINEAR),
        ("blocks.{i}.mlp.fc2", "blocks/mlp/down", LINEAR),
        ("norm", "norm", NORM),
        ("head", "head", LINEAR),
        ("head_dist", "second_head", LINEAR),
    ],
    architectures={},
    read=read_timm("timm-vit"),
)
TORCHVISION_LAYER = "encoder.layers.encoder_layer_{i}"
TORCHVISION_VIT = TIMM_VIT._replace(
    name="torchvision-vit",
    read=lambda config: {},
    rows=[
        ("class_token", "token", TOKEN),
        ("encoder.pos_embedding", "positions", POSITIONS),
        ("conv_proj", "patches", CONV),
        (f"{TORCHVISION_LAYER}.ln_1", "blocks/attend_norm", NORM),
        (f"{TORCHVISION_LAYER}.self_attention", "blocks/attend/query|key|value", IN_PROJECTION),
        (f"{TORCHVISION_LAYER}.self_attention.out_proj", "blocks/attend/out", LINEAR),
        (f"{TORCHVISION_LAYER}.ln_2", "blocks/mlp_norm", NORM),
        (f"{TORCHVISION_LAYER}.mlp.0", "blocks/mlp/up", LINEAR),
        (f"{TORCHVISION_LAYER}.mlp.3", "blocks/mlp/down", LINEAR),
        ("encoder.ln", "norm", NORM),
        ("heads.head", "head", LINEAR),
    ],
    older={
        "mlp.0.weight": "mlp.linear_1.weight",
        "mlp.0.bias": "mlp.linear_1.bias",
        "mlp.3.weight": "mlp.linear_2.weight",
        "mlp.3.bias": "mlp.linear_2.bias",
    },
)
TIMM_MIXER = Family(
    name="timm-mixer",
    factory=mixer,
    settings=[],
    rows=[
        ("stem.proj", "patches", CONV),
        ("blocks.{i}.norm1", "blocks/token_norm", NORM),
        ("blocks.{i}.mlp_tokens.fc1", "blocks/tokens/up", LINEAR),
        ("blocks.{i}.mlp_tokens.fc2", "blocks/tokens/down", LINEAR),
        ("blocks.{i}.norm2", "blocks/channel_norm", NORM),
        ("blocks.{i}.mlp_channels.fc1", "blocks/channels/up", LINEAR),
        ("blocks.{i}.mlp_channels.fc2", "blocks/channels/down", LINEAR),
        ("norm", "norm", NORM),
        ("head", "head", LINEAR),
    ],
    architectures={},
)
