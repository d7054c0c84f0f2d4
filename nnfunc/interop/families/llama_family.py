"""Llama and the decoders with its names: Mistral, Mixtral, Qwen2, Qwen3, Phi-3."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnfunc import check
from nnfunc.interop.families.rope_settings import read_rope, write_rope
from nnfunc.interop.name_table import LINEAR, NORM, TABLE, Row
from nnfunc.interop.published_config import GATED, Family, PublishedConfig, Setting, without
from nnfunc.models.llama import llama


def attention_rows(*, fused: bool = False, norm: Any = NORM) -> list[Row]:
    if fused:
        return [
            ("model.layers.{i}.self_attn.qkv_proj", "blocks/attend/query|key|value", LINEAR),
            ("model.layers.{i}.self_attn.o_proj", "blocks/attend/out", LINEAR),
        ]
    return [
        ("model.layers.{i}.self_attn.q_proj", "blocks/attend/query", LINEAR),
        ("model.layers.{i}.self_attn.k_proj", "blocks/attend/key", LINEAR),
        ("model.layers.{i}.self_attn.v_proj", "blocks/attend/value", LINEAR),
        ("model.layers.{i}.self_attn.o_proj", "blocks/attend/out", LINEAR),
        ("model.layers.{i}.self_attn.q_norm", "blocks/attend/query_norm", norm),
        ("model.layers.{i}.self_attn.k_norm", "blocks/attend/key_norm", norm),
    ]


def other_rows(norm: Any = NORM) -> list[Row]:
    return [
        ("model.embed_tokens", "tokens", TABLE),
        ("model.layers.{i}.input_layernorm", "blocks/attend_norm", norm),
        ("model.layers.{i}.post_attention_layernorm", "blocks/mlp_norm", norm),
        ("model.norm", "norm", norm),
        ("lm_head", "head", LINEAR),
    ]


MLP_ROWS: list[Row] = [
    ("model.layers.{i}.mlp.gate_proj", "blocks/mlp/gate", LINEAR),
    ("model.layers.{i}.mlp.up_proj", "blocks/mlp/up", LINEAR),
    ("model.layers.{i}.mlp.down_proj", "blocks/mlp/down", LINEAR),
]
FUSED_MLP_ROWS: list[Row] = [
    ("model.layers.{i}.mlp.gate_up_proj", "blocks/mlp/gate|up", LINEAR),
    ("model.layers.{i}.mlp.down_proj", "blocks/mlp/down", LINEAR),
]
EXPERT_ROWS: list[Row] = [
    ("model.layers.{i}.block_sparse_moe.gate", "blocks/mlp/router", LINEAR),
    ("model.layers.{i}.block_sparse_moe.experts.{j}.w1", "blocks/mlp/gate", LINEAR),
    ("model.layers.{i}.block_sparse_moe.experts.{j}.w3", "blocks/mlp/up", LINEAR),
    ("model.layers.{i}.block_sparse_moe.experts.{j}.w2", "blocks/mlp/down", LINEAR),
]


def settings(*, tied: bool = False, eps: float = 1e-6, head_dim: int | None = None) -> list[Setting]:
    """Those of all these families. tied, eps, head_dim: the defaults of the family."""
    return [
        Setting("vocab_size", "vocab_size"),
        Setting("hidden_size", "dim"),
        Setting("num_hidden_layers", "layers"),
        Setting("num_attention_heads", "heads"),
        Setting("num_key_value_heads", "kv_heads", int, None),
        Setting("head_dim", "head_dim", int, head_dim),
        Setting("intermediate_size", "hidden"),
        Setting("rms_norm_eps", "eps", float, eps),
        Setting("tie_word_embeddings", "tied", bool, tied),
    ]


def common(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that every family here writes."""
    heads = arguments["heads"]
    sizes = {
        "num_key_value_heads": arguments["kv_heads"] or heads,
        "intermediate_size": arguments["hidden"] or -(-8 * arguments["dim"] // 24) * 8,
    }
    sizes |= {"head_dim": arguments["head_dim"]} if arguments["head_dim"] else {}
    return sizes | {"max_position_embeddings": 131072} | write_rope(arguments)


def head_size(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """head_dim, for the families in which its default is a number."""
    return {"head_dim": arguments["head_dim"] or arguments["dim"] // arguments["heads"]}


PLAIN = {
    **dict.fromkeys(
        [
            "mlp",
            "embedding_scale",
            "window",
            "windows",
            "rotary_bases",
            "rotary_factors",
            "scale",
            "soft_cap",
            "logit_cap",
        ]
    ),
    **dict.fromkeys(["qkv_bias", "out_bias", "qk_norm", "post_norm"], False),
    "num_experts": 0,
}
"""The arguments of Llama that other families change."""


def writer(allowed: tuple[str, ...] = (), more: Any = lambda arguments: {}) -> Any:
    """The `write` of a family, in which the `allowed` arguments may differ from those of Llama."""

    def write(arguments: Mapping[str, Any]) -> dict[str, Any]:
        without(arguments, **{name: value for name, value in PLAIN.items() if name not in allowed})
        return common(arguments) | more(arguments)

    return write


ACTIVATION = Setting(("hidden_act", "hidden_activation"), "activation", GATED, "swiglu")
IGNORED = ("*.rotary_emb.inv_freq", "lm_head.weight")


def read_llama(config: PublishedConfig) -> dict[str, Any]:
    biased = bool(config.get("attention_bias"))
    return read_rope(config) | {"qkv_bias": biased, "out_bias": biased}


def write_llama(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, out_bias=arguments["qkv_bias"])
    return {"attention_bias": arguments["qkv_bias"]}


LLAMA = Family(
    name="llama",
    factory=llama,
    settings=[*settings(), ACTIVATION],
    rows=[*attention_rows(), *MLP_ROWS, *other_rows()],
    architectures={"LlamaForCausalLM": {}},
    fixed={"mlp_bias": False},
    read=read_llama,
    write=writer(("qkv_bias", "out_bias"), write_llama),
    prefix="model.",
    ignored=IGNORED,
)


def read_window(config: PublishedConfig) -> dict[str, Any]:
    window = config.get("sliding_window")
    return read_rope(config) | ({} if window is None else {"window": window})


def write_window(arguments: Mapping[str, Any]) -> dict[str, Any]:
    window = arguments["window"]
    return {"sliding_window": None if window is None else int(window)}


FULL, SLIDING = "full_attention", "sliding_attention"


def read_windows(types: Sequence[str], window: int) -> dict[str, Any]:
    """The argument of the windows of all layers. types: those of the layers, FULL or SLIDING."""
    windows = [float(window) if name == SLIDING else math.inf for name in types]
    if len({*windows}) > 1:
        return {"windows": windows}
    return {} if windows[0] == math.inf else {"window": window}


def write_windows(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the windows, of which all that are finite have one size."""
    window = math.inf if arguments["window"] is None else arguments["window"]
    windows = list(arguments["windows"] or [window] * arguments["layers"])
    sizes = {size for size in windows if size != math.inf}
    if len(sizes) > 1:
        check.fail("to_pretrained", expected="the windows of all layers should be equal or infinite", actual=windows)
    types = [FULL if size == math.inf else SLIDING for size in windows]
    return {"sliding_window": int(sizes.pop()) if sizes else 4096, "layer_types": types}


MISTRAL = LLAMA._replace(
    name="mistral",
    architectures={"MistralForCausalLM": {}},
    fixed={},
    read=read_window,
    write=writer(("window",), write_window),
)
PHI3 = LLAMA._replace(
    name="phi3",
    settings=[*settings(eps=1e-5), ACTIVATION],
    rows=[*attention_rows(fused=True), *FUSED_MLP_ROWS, *other_rows()],
    architectures={"Phi3ForCausalLM": {}},
    fixed={},
    read=read_window,
    write=writer(("window",), lambda a: write_window(a) | {"pad_token_id": 0}),
)


def write_experts(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if not arguments["num_experts"]:
        check.fail("to_pretrained", expected="num_experts should be above 0 in this family", actual=0)
    return write_window(arguments)


MIXTRAL = LLAMA._replace(
    name="mixtral",
    settings=[
        *settings(eps=1e-5),
        ACTIVATION,
        Setting("num_local_experts", "num_experts"),
        Setting("num_experts_per_tok", "top_k", int, 2),
    ],
    rows=[*attention_rows(), *EXPERT_ROWS, *other_rows()],
    architectures={"MixtralForCausalLM": {}},
    fixed={},
    read=read_window,
    write=writer(("window", "num_experts"), write_experts),
)


def read_qwen(config: PublishedConfig) -> dict[str, Any]:
    """Layers from max_window_layers on have a window, where the config does not name them."""
    if not config.get("use_sliding_window"):
        return read_rope(config)
    count = config.read(Setting("num_hidden_layers", "layers"))
    first = config.read(Setting("max_window_layers", "windows", int, 28))
    types = config.get("layer_types") or [FULL if i < first else SLIDING for i in range(count)]
    window = config.read(Setting("sliding_window", "window", int, 4096))
    return read_rope(config) | read_windows(types, window)


def write_qwen(arguments: Mapping[str, Any]) -> dict[str, Any]:
    config = write_windows(arguments)
    windows = config["layer_types"].count(SLIDING)
    first = config["layer_types"].index(SLIDING) if windows else arguments["layers"]
    return config | {"use_sliding_window": windows > 0, "max_window_layers": first}


QWEN2 = LLAMA._replace(
    name="qwen2",
    architectures={"Qwen2ForCausalLM": {}},
    fixed={},
    read=lambda config: read_qwen(config) | {"qkv_bias": True},
    write=writer(("window", "windows", "qkv_bias"), lambda a: without(a, qkv_bias=True) or write_qwen(a)),
)
QWEN3 = LLAMA._replace(
    name="qwen3",
    settings=[*settings(head_dim=128), ACTIVATION],
    architectures={"Qwen3ForCausalLM": {}},
    fixed={"attention_bias": False},
    read=lambda config: read_qwen(config) | {"qk_norm": True},
    write=writer(("window", "windows", "qk_norm"), lambda a: without(a, qk_norm=True) or write_qwen(a) | head_size(a)),
)
