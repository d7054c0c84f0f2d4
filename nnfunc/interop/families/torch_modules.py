"""PyTorch's own modules: nn.LSTM, nn.GRU, nn.RNN and nn.Transformer, which have no config."""

from collections.abc import Sequence

import numpy as np

from nnfunc import check
from nnfunc.base import Model
from nnfunc.interop.name_table import (
    BATCH_NORM,
    CONV,
    IN_PROJECTION,
    LINEAR,
    NORM,
    SAME,
    TABLE,
    Change,
    Leaves,
    Row,
    axes,
)
from nnfunc.interop.published_config import Family, arguments_of
from nnfunc.layers.recurrent.layers import gru, lstm, rnn
from nnfunc.models.seq2seq import seq2seq


def split_gru_bias(bias: np.ndarray) -> np.ndarray:
    """[3 * dim] of the gates r, z, n -> what is added to bias [3 * dim], and recurrent_bias [dim]."""
    dim = len(bias) // 3
    return np.concatenate([bias[: 2 * dim], np.zeros_like(bias[:dim]), bias[2 * dim :]])


def join_gru_bias(both: np.ndarray) -> np.ndarray:
    dim = len(both) // 4
    return np.concatenate([np.zeros_like(both[: 2 * dim]), both[3 * dim :]])


def recurrent(second: tuple[str, Change]) -> tuple[Leaves, ...]:
    """The tensors of a cell, of a layer, and of one in both directions; second: the path
    and the change of the bias of the hidden values.

    PyTorch's recurrent layers have two biases, here their sum; the second is written as zeros.
    """

    def leaves(end: str, path: str) -> dict[str, tuple[str, Change]]:
        tensors = {"weight_ih": ("weight", axes(1, 0)), "weight_hh": ("recurrent_weight", axes(1, 0))}
        tensors |= {"bias_ih": ("bias", SAME), "bias_hh": second, "weight_hr": ("projection", axes(1, 0))}
        return {f"{name}{end}": (f"{path}{leaf}", change) for name, (leaf, change) in tensors.items()}

    layer = "layer_{s}/"
    both = leaves("_l{s}", f"{layer}forward/") | leaves("_l{s}_reverse", f"{layer}backward/")
    return leaves("", ""), leaves("_l{s}", layer), both


SUM = recurrent(("bias", Change(to_published=np.zeros_like, added=True)))
GRU = recurrent(("bias|recurrent_bias", Change(split_gru_bias, join_gru_bias, added=True)))
TORCH_LSTM = Family("torch-lstm", lstm, [], [("", "", leaves) for leaves in SUM], {})
TORCH_GRU = Family("torch-gru", gru, [], [("", "", leaves) for leaves in GRU], {})
TORCH_RNN = Family("torch-rnn", rnn, [], [("", "", leaves) for leaves in SUM], {})


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


PROJECTIONS: Leaves = {
    "in_proj_weight": ("query|key|value/weight", axes(1, 0)),
    "in_proj_bias": ("query|key|value/bias", SAME),
    "out_proj.weight": ("out/weight", axes(1, 0)),
    "out_proj.bias": ("out/bias", SAME),
}
LAYERS: dict[str, tuple[Leaves, ...]] = {
    "linear": (LINEAR,),
    "conv": (CONV,),
    "embedding": (TABLE,),
    "norm": (NORM,),
    "batch_norm": (BATCH_NORM,),
    "prelu": ({"weight": ("slope", SAME)},),
    "attention": (PROJECTIONS,),
    "lstm": SUM,
    "gru": GRU,
    "rnn": SUM,
    "parameter": ({"": ("", SAME)},),
}
"""The layers of a table of names: each is that of nnfunc, and PyTorch's module of this meaning."""


Table = Sequence[tuple[str, str, str | Leaves]]


def table_family(where: str, rows: Table, model: Model) -> Family:
    """The names of one model.

    rows: (published name, path, layer), where layer is a name in LAYERS or its leaves.

    Raises: TypeError for rows of another form; ValueError for an unknown layer.
    """
    table: list[Row] = []
    for row in rows:
        if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != 3:
            expected = "each row of family should be (published name, path, layer)"
            check.fail(where, expected=expected, actual=check.describe(row), exc_type=TypeError)
        name, path, layer = row
        if isinstance(layer, str):
            check.choice(where, LAYERS, layer=layer)
        table += [(name, path, leaves) for leaves in (LAYERS[layer] if isinstance(layer, str) else (layer,))]
    return Family("table", arguments_of(model)[0], [], table, {}, ignored=("*.num_batches_tracked",))
