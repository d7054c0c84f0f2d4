"""The outputs of a trained model for the rows of a split."""

from typing import Any

import jax
import numpy as np

from nnfunc import check, device_memory
from nnfunc.base import Model, Params, PyTree
from nnfunc.config.config import Config
from nnfunc.data.dataset import Dataset, count_examples
from nnfunc.data.eval_batches import EvalBatch, eval_batches
from nnfunc.data.fingerprint import SPLIT_BITS
from nnfunc.data.preprocessing import PARTS, Preprocessing
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.readings import mark_ignored
from nnfunc.training.objectives import Objective

__all__ = ["held_out_rows", "split_rows"]

MOST_TRAINING_ROWS = 10_000


def held_out_rows(
    config: Config,
    data: Dataset,
    split: str,
    objective: Any,
    model: Model,
    params: Params,
    state: PyTree,
    threshold: Any = None,
    most: int | None = MOST_TRAINING_ROWS,
    *,
    other_file: bool = False,
) -> HeldOut:
    """The outputs and targets of a split, in its order; of "train" at most 10,000 rows, evenly chosen.

    config: of the run. data: its data set. split: "train", "validation" or "test". objective: of the run, which says
    how outputs are read. model, params, state: the trained model. threshold: of answers, or None. most: rows of
    "train", None for all. other_file: whether the data is another file than those of the run, as its split "train".
    Raises: ValueError when there is no such split, or its examples are not pairs (x, target).
    """
    where = "held_out"
    check.choice(where, PARTS, split=split)
    tree, rows = split_rows(data, split, most)
    if tree is None:
        check.fail(where, f"the data has no {split} split.", hint="Use train, or another split.")

    def outputs(params: Params, state: PyTree, batch: EvalBatch) -> tuple[Any, Any]:
        pair = batch.batch()
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            check.fail(where, expected="examples should be pairs (x, target)", actual=check.describe(pair))
        return model.apply(params, pair[0], state=state), pair[1]

    compiled, parts = jax.jit(outputs), []
    for batch in eval_batches(tree, min(config.eval_batch_size, count_examples(tree)), data.transform):
        if not parts:
            what, hint = f"an evaluation of {count_examples(batch.examples)} rows at once", "Make the batches smaller."
            device_memory.compile_checked(where, compiled, what, hint, params, state, batch)
        parts.append(jax.tree.map(lambda x, n=int(batch.count): x[:n], jax.device_get(compiled(params, state, batch))))
    output, target = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    if isinstance(output, tuple | list):
        output = np.concatenate([part.reshape(len(part), -1) for part in output], axis=1)
    kind = objective.kind if isinstance(objective, Objective) else ""
    ignored = objective.ignore_index if isinstance(objective, Objective) else None
    target = mark_ignored(target, kind, ignored)
    output, target = config.preprocessing.restore_target(output, kind), config.preprocessing.restore_target(target)
    ids = _row_ids(data.preprocessing if other_file else config.preprocessing, split, rows, data)
    return HeldOut(kind, output, target, config.preprocessing.names, ids, threshold)


def split_rows(data: Dataset, split: str, most: int | None = MOST_TRAINING_ROWS) -> tuple[PyTree, np.ndarray | None]:
    """(the arrays of a split, or None without it; the indices of the rows of "train" that were chosen, else None)."""
    if split != "train":
        return getattr(data, split), None
    tree = data.arrays
    if data.window is not None:  # one array of tokens, cut into windows that share one token
        stride = max(data.window - 1, 1)
        windows = (count_examples(tree) - 1) // stride
        rows = _evenly(windows, windows if most is None else max(1, min(most, 2**20 // data.window)))
        at = rows[:, None] * stride + np.arange(data.window)
        return jax.tree.map(lambda x: np.asarray(x[at]), tree), rows
    rows = _evenly(count_examples(tree), count_examples(tree) if most is None else most)
    return jax.tree.map(lambda x: np.asarray(x[rows]), tree), rows


def _evenly(count: int, most: int) -> np.ndarray:
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(np.int64)


def _row_ids(record: Preprocessing | None, split: str, rows: np.ndarray | None, data: Dataset) -> np.ndarray | None:
    """The positions of the rows in the file of the data, where it was split at random, or has left-out repeats.

    Else those in the split, or None. record: of the files that data was read from, None for several files together.
    """
    if record is None:
        return rows
    hashes, chosen, file = record.rows, rows, split
    if hashes is not None:
        at = np.flatnonzero((hashes & SPLIT_BITS) == PARTS.index(split))
        if len(at) and len(at) == count_examples(data.arrays if split == "train" else getattr(data, split)):
            chosen, file = at if rows is None else at[rows], "train"
        elif split == "train":  # the file has changed
            return rows
    if chosen is None and file in record.facts.get("repeats", {}):
        chosen = np.arange(count_examples(getattr(data, split)))
    return None if chosen is None else record.file_rows(file, chosen)
