"""Gemma 1, 2 and 3, with the names of Llama."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.interop.families.llama_family import (
    ACTIVATION,
    LLAMA,
    MLP_ROWS,
    attention_rows,
    head_size,
    other_rows,
    settings,
    write_windows,
    writer,
)
from nnfunc.interop.families.rope_settings import read_rope
from nnfunc.interop.name_table import Change, Row
from nnfunc.interop.published_config import PublishedConfig, Setting, without

SHIFTED_NORM = {
    "weight": ("scale", Change(lambda x: 1 + x.astype(np.float32), lambda x: x.astype(np.float32) - 1, widen=True))
}
"""Gemma's scale: the published numbers are those to add to 1."""


GEMMA_ACTIVATION = ACTIVATION._replace(
    form={"gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu_tanh"},  # "gelu" in its first files
    default="geglu_tanh",
)

GEMMA2_ACTIVATION = GEMMA_ACTIVATION._replace(name=("hidden_activation", "hidden_act"))  # the second is not read there


def write_gemma(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, embedding_scale=math.sqrt(arguments["dim"]))
    return {"pad_token_id": 0} | head_size(arguments)


GEMMA = LLAMA._replace(
    name="gemma",
    settings=[*settings(tied=True, head_dim=256), GEMMA_ACTIVATION],
    rows=[*attention_rows(), *MLP_ROWS, *other_rows(SHIFTED_NORM)],
    architectures={"GemmaForCausalLM": {}},
    fixed={"attention_bias": False},
    read=lambda config: read_rope(config) | {"embedding_scale": math.sqrt(config["hidden_size"])},
    write=writer(("embedding_scale",), write_gemma),
)


def sandwich_rows() -> list[Row]:
    """Gemma 2 and 3 have a norm before and after each branch; "post_attention" is after it."""
    names = {
        "input_layernorm": "attend_norm",
        "post_attention_layernorm": "attend_post_norm",
        "pre_feedforward_layernorm": "mlp_norm",
        "post_feedforward_layernorm": "mlp_post_norm",
    }
    rows = [row for row in other_rows(SHIFTED_NORM) if "layernorm" not in row[0]]
    return rows + [(f"model.layers.{{i}}.{name}", f"blocks/{path}", SHIFTED_NORM) for name, path in names.items()]


def layer_types(config: PublishedConfig, pattern: int) -> list[str]:
    """Which layers have a window: all but every pattern-th one, where the config does not say."""
    count = config.read(Setting("num_hidden_layers", "layers"))
    types = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(count)]
    return config.get("layer_types") or types


def read_gemma2(config: PublishedConfig, pattern: int = 2) -> dict[str, Any]:
    window = config.read(Setting("sliding_window", "window", int, 4096))
    windows = [float(window) if name.startswith("sliding") else math.inf for name in layer_types(config, pattern)]
    scale = config.read(Setting("query_pre_attn_scalar", "scale", float, 256)) ** -0.5
    caps = {"soft_cap": config.get("attn_logit_softcapping"), "logit_cap": config.get("final_logit_softcapping")}
    return {
        "embedding_scale": math.sqrt(config["hidden_size"]),
        "windows": windows,
        "scale": scale,
        "post_norm": True,
        **{name: cap for name, cap in caps.items() if cap is not None},
    }


def write_gemma2(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, embedding_scale=math.sqrt(arguments["dim"]), post_norm=True)
    head_dim = arguments["head_dim"] or arguments["dim"] // arguments["heads"]
    return (
        write_windows(arguments)
        | head_size(arguments)
        | {
            "query_pre_attn_scalar": round((arguments["scale"] or head_dim**-0.5) ** -2),  # an integer there
            "attn_logit_softcapping": arguments["soft_cap"],
            "final_logit_softcapping": arguments["logit_cap"],
            "hidden_activation": "gelu_pytorch_tanh",
            "pad_token_id": 0,
        }
    )


CAPPED = ("embedding_scale", "window", "windows", "scale", "soft_cap", "logit_cap", "post_norm")
GEMMA2 = GEMMA._replace(
    name="gemma2",
    settings=[*settings(tied=True, head_dim=256), GEMMA2_ACTIVATION],
    rows=[*attention_rows(), *MLP_ROWS, *sandwich_rows()],
    architectures={"Gemma2ForCausalLM": {}},
    read=lambda config: read_rope(config) | read_gemma2(config),
    write=writer(CAPPED, lambda a: without(a, qk_norm=False) or write_gemma2(a)),
)


def read_gemma3(config: PublishedConfig) -> dict[str, Any]:
    """Layers with a window rotate with another base, and without the linear scaling of the others."""
    tables = config.table("rope_parameters")
    full = tables.get("full_attention", {"rope_theta": config.get("rope_theta", 1e6), **config.table("rope_scaling")})
    local = tables.get("sliding_attention", {"rope_theta": config.get("rope_local_base_freq", 1e4)})
    name = full.get("rope_type", full.get("type", "default"))
    if name not in ("default", "linear"):
        expected = "the rope_type of full_attention should be 'default' or 'linear'"
        check.fail(config.where, expected=expected, actual=repr(name))
    pattern = config.read(Setting(("sliding_window_pattern", "_sliding_window_pattern"), "windows", int, 6))
    parts = [local if name.startswith("sliding") else full for name in layer_types(config, pattern)]
    scaled = {} if name == "default" else {"rotary_factors": [float(part.get("factor", 1)) for part in parts]}
    bases = [float(part.get("rope_theta", 1e4 if part is local else 1e6)) for part in parts]
    return read_gemma2(config, pattern) | scaled | {"qk_norm": True, "rotary_bases": bases}


def write_gemma3(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, qk_norm=True, rotary_scaling=None)
    config = write_gemma2(arguments)
    count = arguments["layers"]
    bases = list(arguments["rotary_bases"] or [arguments["rotary_base"]] * count)
    factors = list(arguments["rotary_factors"] or [1.0] * count)
    tables = {"sliding_attention": (1e4, 1.0), "full_attention": (1e6, 1.0)}
    for name in tables:
        pairs = {
            pair for pair, of in zip(zip(bases, factors, strict=True), config["layer_types"], strict=True) if of == name
        }
        if len(pairs) > 1:
            expected = "rotary_base should be one number for layers with a window, and one for the others"
            check.fail("to_pretrained", expected=expected, actual=bases)
        tables |= {name: pairs.pop()} if pairs else {}
    rope = {
        name: {"rope_type": "default" if factor == 1 else "linear", "rope_theta": float(base)}
        | ({} if factor == 1 else {"factor": float(factor)})
        for name, (base, factor) in tables.items()
    }
    return config | {"rope_parameters": rope}


GEMMA3 = GEMMA2._replace(
    name="gemma3_text",
    rows=[*attention_rows(norm=SHIFTED_NORM), *MLP_ROWS, *sandwich_rows()],
    architectures={"Gemma3ForCausalLM": {}},
    read=read_gemma3,
    write=writer((*CAPPED, "qk_norm", "rotary_bases", "rotary_factors"), write_gemma3),
)


def refuse_to_write(arguments: Mapping[str, Any]) -> dict[str, Any]:
    check.fail("to_pretrained", "nnfunc has only the text part of this model.", hint='Pass family="gemma3_text".')


DEFAULTS = {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4}
GEMMA3_MULTIMODAL = GEMMA3._replace(
    name="gemma3",
    settings=[one._replace(default=DEFAULTS.get(one.names[0], one.default)) for one in GEMMA3.settings],
    architectures={},
    section="text_config",
    write=refuse_to_write,
    renamed={"model.language_model.": "model.", "language_model.": ""},
)
"""The text part of Gemma 3 with images; its config.json leaves sizes out."""
