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
    other_rows,
    settings,
    write_windows,
    writer,
)
from nnfunc.interop.families.rope_settings import read_rope
from nnfunc.interop.name_table import Change, Row
from nnfunc.interop.published_config import PublishedConfig, Setting, without

__all__ = ["GEMMA", "GEMMA2", "GEMMA3"]

SHIFTED_NORM = {
    "weight": ("scale", Change(lambda x: 1 + x.astype(np.float32), lambda x: x.astype(np.float32) - 1, widen=True))
}
"""Gemma's scale: the published numbers are those to add to 1."""


GEMMA_ACTIVATION = ACTIVATION._replace(
    form={"gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu_tanh"},  # "gelu" in its first files
    default="geglu_tanh",
)


def write_gemma(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, embedding_scale=math.sqrt(arguments["dim"]))
    return {"pad_token_id": 0}


GEMMA = LLAMA._replace(
    name="gemma",
    settings=[*settings(tied=True), GEMMA_ACTIVATION],
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
    return write_windows(arguments) | {
        "query_pre_attn_scalar": round((arguments["scale"] or head_dim**-0.5) ** -2),  # an integer there
        "attn_logit_softcapping": arguments["soft_cap"],
        "final_logit_softcapping": arguments["logit_cap"],
        "hidden_activation": "gelu_pytorch_tanh",
        "pad_token_id": 0,
    }


CAPPED = ("embedding_scale", "window", "windows", "scale", "soft_cap", "logit_cap", "post_norm")
GEMMA2 = GEMMA._replace(
    name="gemma2",
    settings=[*settings(tied=True), GEMMA_ACTIVATION],
    rows=[*attention_rows(), *MLP_ROWS, *sandwich_rows()],
    architectures={"Gemma2ForCausalLM": {}},
    read=lambda config: read_rope(config) | read_gemma2(config),
    write=writer(CAPPED, lambda a: without(a, qk_norm=False) or write_gemma2(a)),
)


def read_gemma3(config: PublishedConfig) -> dict[str, Any]:
    """Layers with a window rotate with another base, and without the scaling of the others."""
    tables = config.get("rope_parameters") or {}
    full = tables.get(
        "full_attention", {"rope_theta": config.get("rope_theta", 1e6), **(config.get("rope_scaling") or {})}
    )
    local = tables.get("sliding_attention", {"rope_theta": config.get("rope_local_base_freq", 1e4)})
    if full.get("rope_type", "default") != "default":
        expected = "the rope_type of full_attention should be 'default'"
        check.fail(config.where, expected=expected, actual=repr(full["rope_type"]))
    bases = [float((local if name.startswith("sliding") else full)["rope_theta"]) for name in layer_types(config, 6)]
    return read_gemma2(config, 6) | {"qk_norm": True, "rotary_bases": bases}


def write_gemma3(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, qk_norm=True, rotary_scaling=None)
    config = write_gemma2(arguments)
    bases = list(arguments["rotary_bases"] or [arguments["rotary_base"]] * arguments["layers"])
    by_type: dict[str, set[float]] = {"sliding_attention": set(), "full_attention": set()}
    for name, number in zip(config["layer_types"], bases, strict=True):
        by_type[name].add(float(number))
    if any(len(numbers) > 1 for numbers in by_type.values()):
        expected = "rotary_base should be one number for layers with a window, and one for the others"
        check.fail("to_pretrained", expected=expected, actual=bases)
    defaults = {"sliding_attention": 1e4, "full_attention": 1e6}
    tables = {
        name: {"rope_type": "default", "rope_theta": numbers.pop() if numbers else defaults[name]}
        for name, numbers in by_type.items()
    }
    return config | {"rope_parameters": tables}


GEMMA3 = GEMMA2._replace(
    name="gemma3_text",
    rows=[*attention_rows(norm=SHIFTED_NORM), *MLP_ROWS, *sandwich_rows()],
    architectures={"Gemma3ForCausalLM": {}},
    read=read_gemma3,
    write=writer((*CAPPED, "qk_norm", "rotary_bases"), write_gemma3),
)
