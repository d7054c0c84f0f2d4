"""BART of transformers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.interop.name_table import LINEAR, NORM, TABLE, Change, Row, vector
from nnfunc.interop.published_config import ACTIVATIONS, Family, PublishedConfig, Setting, without
from nnfunc.models.seq2seq import seq2seq

FIRST = 2
"""Positions begin at this row of the published table; those before are not used."""
POSITIONS = {"weight": ("weight", Change(lambda x: x[FIRST:], lambda x: np.pad(x, ((FIRST, 0), (0, 0)))))}

BIAS = "final_logits_bias"
"""A buffer there: transformers takes zeros where a file does not have it."""


def attention_rows(name: str, path: str) -> list[Row]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return [(f"{name}.{part}", f"{path}/{ours}", LINEAR) for part, ours in parts.items()]


def stack_rows(stack: str) -> list[Row]:
    layer, blocks = f"model.{stack}.layers.{{i}}", f"{stack}/blocks"
    return [
        (f"model.{stack}.embed_positions", f"{stack}/positions", POSITIONS),
        (f"model.{stack}.layernorm_embedding", f"{stack}/embedding_norm", NORM),
        *attention_rows(f"{layer}.self_attn", f"{blocks}/attend"),
        (f"{layer}.self_attn_layer_norm", f"{blocks}/attend_norm", NORM),
        *attention_rows(f"{layer}.encoder_attn", f"{blocks}/cross"),
        (f"{layer}.encoder_attn_layer_norm", f"{blocks}/cross_norm", NORM),
        (f"{layer}.fc1", f"{blocks}/mlp/up", LINEAR),
        (f"{layer}.fc2", f"{blocks}/mlp/down", LINEAR),
        (f"{layer}.final_layer_norm", f"{blocks}/mlp_norm", NORM),
    ]


def read_bart(config: PublishedConfig) -> dict[str, Any]:
    for name in ("attention_heads", "ffn_dim"):
        values = config.get(f"encoder_{name}"), config.get(f"decoder_{name}")
        if values[0] != values[1]:
            check.fail(config.where, expected=f"encoder_{name} should be decoder_{name}", actual=f"{values}")
    scale = {} if config.get("scale_embedding") else {"embedding_scale": 1.0}
    bias = {"logit_bias": config.tensors is None or BIAS in config.tensors}
    return {"embedding_norm": True, **bias, "order": "post", "tied": True, **scale}


def write_bart(arguments: Mapping[str, Any]) -> dict[str, Any]:
    without(arguments, embedding_norm=True, order="post", tied=True, norm="layer", eps=None, final_norm=None)
    if arguments["embedding_scale"] not in (None, 1):
        expected = "embedding_scale should be 1 or None in this family"
        check.fail("to_pretrained", expected=expected, actual=arguments["embedding_scale"])
    if arguments["block_size"] is None:
        check.fail("to_pretrained", expected="block_size should be a number in this family", actual=None)
    if arguments["decoder_layers"] == 0:
        check.fail("to_pretrained", expected="decoder_layers should be above 0 in this family", actual=0)
    hidden, heads = arguments["hidden"] or 4 * arguments["dim"], arguments["heads"]
    return {
        "scale_embedding": arguments["embedding_scale"] is None,
        "decoder_layers": arguments["decoder_layers"] or arguments["layers"],
        **{f"{stack}_ffn_dim": hidden for stack in ("encoder", "decoder")},
        **{f"{stack}_attention_heads": heads for stack in ("encoder", "decoder")},
    }


BART = Family(
    name="bart",
    factory=seq2seq,
    settings=[
        Setting("vocab_size", "vocab_size"),
        Setting("d_model", "dim"),
        Setting("encoder_layers", "layers"),
        Setting("decoder_layers", "decoder_layers"),
        Setting("encoder_attention_heads", "heads"),
        Setting("encoder_ffn_dim", "hidden"),
        Setting("max_position_embeddings", "block_size"),
        Setting("activation_function", "activation", ACTIVATIONS, "gelu"),
    ],
    rows=[
        ("model.shared", "encoder/tokens", TABLE),
        *stack_rows("encoder"),
        *stack_rows("decoder"),
        (BIAS, "decoder/shift", {"": ("bias", vector(2))}),
    ],
    architectures={"BartForConditionalGeneration": {"output": "tokens"}, "BartModel": {"output": "hidden"}},
    fixed={"tie_word_embeddings": True},
    read=read_bart,
    write=write_bart,
    prefix="model.",
    ignored=("*embed_tokens.weight", "lm_head.weight"),
)
