"""PyTorch's own modules: nn.LSTM, nn.GRU, nn.RNN and nn.Transformer, which have no config."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnfunc.interop.name_table import IN_PROJECTION, LINEAR, NORM, SAME, TABLE, Change, Row, axes
from nnfunc.interop.published_config import Family
from nnfunc.layers.recurrent.layers import gru, lstm, rnn
from nnfunc.models.seq2seq import seq2seq

__all__ = ["TORCH_GRU", "TORCH_LSTM", "TORCH_RNN", "TORCH_TRANSFORMER"]

MATRIX = {"": ("", axes(1, 0))}
VECTOR = {"": ("", SAME)}
SECOND_BIAS = Change(to_published=np.zeros_like, added=True)
"""PyTorch's recurrent layers have two biases, here their sum; the second is written as zeros."""


def split_gru_bias(bias: np.ndarray) -> np.ndarray:
    """[3 * dim] of the gates r, z, n -> what is added to bias [3 * dim], and recurrent_bias [dim]."""
    dim = len(bias) // 3
    return np.concatenate([bias[: 2 * dim], np.zeros_like(bias[:dim]), bias[2 * dim :]])


def join_gru_bias(both: np.ndarray) -> np.ndarray:
    dim = len(both) // 4
    return np.concatenate([np.zeros_like(both[: 2 * dim]), both[3 * dim :]])


SECOND_GRU_BIAS = Change(split_gru_bias, join_gru_bias, added=True)


def recurrent_rows(arguments: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for i in range(arguments["layers"]):
        directions = [("/forward", ""), ("/backward", "_reverse")] if arguments["bidirectional"] else [("", "")]
        for direction, end in directions:
            path, name = f"layer_{i}{direction}", f"l{i}{end}"
            rows += [
                (f"weight_ih_{name}", f"{path}/weight", MATRIX),
                (f"weight_hh_{name}", f"{path}/recurrent_weight", MATRIX),
                (f"bias_ih_{name}", f"{path}/bias", VECTOR),
            ]
            if "reset" in arguments:
                rows += [(f"bias_hh_{name}", f"{path}/bias|recurrent_bias", {"": ("", SECOND_GRU_BIAS)})]
            else:
                rows += [(f"bias_hh_{name}", f"{path}/bias", {"": ("", SECOND_BIAS)})]
    return rows


TORCH_LSTM = Family("torch-lstm", lstm, [], recurrent_rows, {})
TORCH_GRU = Family("torch-gru", gru, [], recurrent_rows, {})
TORCH_RNN = Family("torch-rnn", rnn, [], recurrent_rows, {})


def stack_rows(name: str, norms: dict[str, int]) -> list[Row]:
    layer, blocks = f"{name}.layers.{{i}}", f"{name}/blocks"
    return [
        (f"{layer}.self_attn", f"{blocks}/attend/query|key|value", IN_PROJECTION),
        (f"{layer}.self_attn.out_proj", f"{blocks}/attend/out", LINEAR),
        (f"{layer}.multihead_attn", f"{blocks}/cross/query|key|value", IN_PROJECTION),
        (f"{layer}.multihead_attn.out_proj", f"{blocks}/cross/out", LINEAR),
        (f"{layer}.linear1", f"{blocks}/mlp/up", LINEAR),
        (f"{layer}.linear2", f"{blocks}/mlp/down", LINEAR),
        *((f"{layer}.norm{i}", f"{blocks}/{branch}_norm", NORM) for branch, i in norms.items()),
        (f"{name}.norm", f"{name}/norm", NORM),
    ]


TORCH_TRANSFORMER = Family(
    name="torch-transformer",
    factory=seq2seq,
    settings=[],
    rows=[
        ("tokens", "encoder/tokens", TABLE),
        *stack_rows("encoder", {"attend": 1, "mlp": 2}),
        *stack_rows("decoder", {"attend": 1, "cross": 2, "mlp": 3}),
    ],
    architectures={},
)
