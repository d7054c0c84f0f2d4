"""T5, its version 1.1 and mT5 of transformers."""

from collections.abc import Mapping
from typing import Any

from nnfunc import check
from nnfunc.interop.name_table import LINEAR, NORM, TABLE, Row
from nnfunc.interop.published_config import GATED, Family, PublishedConfig, Setting, without
from nnfunc.models.seq2seq import seq2seq

PLAIN = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu": "gelu"}
ACTIVATIONS = {**PLAIN, "gated-gelu": "geglu_tanh", "gated-silu": GATED["silu"], "gated-relu": GATED["relu"]}
FIXED = {
    **{"bias": False, "scale": 1.0, "order": "pre", "norm": "rms", "embedding_scale": 1.0},
    **{"embedding_norm": False, "logit_bias": False, "block_size": None, "final_norm": None},
}
"""The arguments that all these models have."""


def rows(arguments: Mapping[str, Any]) -> list[Row]:
    gated = arguments["activation"] not in PLAIN.values()
    mlp = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gated else {"wi": "up", "wo": "down"}
    parts = {
        "encoder": [("SelfAttention", "attend"), ("DenseReluDense", "mlp")],
        "decoder": [("SelfAttention", "attend"), ("EncDecAttention", "cross"), ("DenseReluDense", "mlp")],
    }
    table: list[Row] = [("shared", "encoder/tokens", TABLE), (HEAD, "decoder/head", LINEAR)]
    for stack, branches in parts.items():
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
        table += [(bias, f"{stack}/relative", TABLE), (f"{stack}.final_layer_norm", f"{stack}/norm", NORM)]
        for i, (name, branch) in enumerate(branches):
            layer, path = f"{stack}.block.{{i}}.layer.{i}", f"{stack}/blocks/{branch}"
            names = mlp if branch == "mlp" else {"q": "query", "k": "key", "v": "value", "o": "out"}
            table += [(f"{layer}.layer_norm", f"{path}_norm", NORM)]
            table += [(f"{layer}.{name}.{there}", f"{path}/{ours}", LINEAR) for there, ours in names.items()]
    return table


HEAD = "lm_head"


def read_mt5(config: PublishedConfig, *, scaled: bool = False) -> dict[str, Any]:
    """The head has a table of its own where the file has one, whatever the config says, except below a factor.

    A file of the body alone has none, so that the config says whether its head would be the table.
    """
    untied = config.architecture.endswith("T5Model") and not config.get("tie_word_embeddings", True)
    separate = not scaled and (untied or config.tensors is None or f"{HEAD}.weight" in config.tensors)
    head = {"tied": "tables" if separate else True} | ({"head_scale": config["d_model"] ** -0.5} if scaled else {})
    return {name: value for name, value in FIXED.items() if value is not None} | head


def read_t5(config: PublishedConfig) -> dict[str, Any]:
    """The first version has a factor before the head; tie_word_embeddings is false in version 1.1 alone."""
    return read_mt5(config, scaled=config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True)))


def write_mt5(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, **FIXED, head_scale=None)
    return sizes(arguments)


def write_t5(arguments: Mapping[str, Any]) -> dict[str, Any]:
    first = arguments["head_scale"] is not None
    without(arguments, **FIXED, **({"tied": True, "head_scale": arguments["dim"] ** -0.5} if first else {}))
    return {"scale_decoder_outputs": first} | sizes(arguments)


def sizes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The further settings of all versions."""
    without(arguments, tied=arguments["tied"] or "tables")
    if arguments["buckets"] is None:
        check.fail("to_pretrained", expected="buckets should be a number in this family", actual=None)
    return {
        "tie_word_embeddings": arguments["tied"] is True,
        "num_decoder_layers": arguments["decoder_layers"] or arguments["layers"],
        "d_ff": arguments["hidden"] or 4 * arguments["dim"],
        "d_kv": arguments["head_dim"] or arguments["dim"] // arguments["heads"],
    }


T5 = Family(
    name="t5",
    factory=seq2seq,
    settings=[
        Setting("vocab_size", "vocab_size"),
        Setting("d_model", "dim"),
        Setting("d_kv", "head_dim"),
        Setting("d_ff", "hidden"),
        Setting("num_layers", "layers"),
        Setting("num_decoder_layers", "decoder_layers", int, None),
        Setting("num_heads", "heads"),
        Setting("relative_attention_num_buckets", "buckets", int, 32),
        Setting("relative_attention_max_distance", "max_distance", int, 128),
        Setting("layer_norm_epsilon", "eps", float, 1e-6),
        Setting("feed_forward_proj", "activation", ACTIVATIONS, "relu"),
    ],
    rows=rows,
    architectures={
        "T5EncoderModel": {"decoder_layers": 0},
        "T5ForConditionalGeneration": {"output": "tokens"},
        "T5Model": {"output": "hidden"},
    },
    read=read_t5,
    write=write_t5,
    ignored=(
        *("*embed_tokens.weight", f"{HEAD}.weight"),
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    ),
)
MT5 = T5._replace(
    name="mt5",
    architectures={f"M{name}": arguments for name, arguments in T5.architectures.items()},
    read=read_mt5,
    write=write_mt5,
)
