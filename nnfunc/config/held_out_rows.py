"""The outputs of a trained model for the rows of a split."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from nnfunc import check, device_memory
from nnfunc.base import Model, Params, PyTree, as_model
from nnfunc.config.config import Config
from nnfunc.data.dataset import Dataset, count_examples
from nnfunc.data.eval_batches import EvalBatch, eval_batches
from nnfunc.data.fingerprint import SPLIT_BITS
from nnfunc.data.preprocessing import PARTS, Preprocessing
from nnfunc.data.sources.forecasting import restore_series, window_series
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.readings import mark_ignored
from nnfunc.evaluation.thresholds import THRESHOLD_METRICS, choose_threshold
from nnfunc.training.objectives import Objective
from nnfunc.training.task import Task

MOST_TRAINING_ROWS = 10_000


def held_out_rows(
    config: Config,
    data: Dataset,
    split: str,
    task: Task,
    params: Params,
    state: PyTree,
    threshold: Any = None,
    most: int | None = MOST_TRAINING_ROWS,
    *,
    other_file: bool = False,
) -> HeldOut:
    """The outputs and targets of a split, in its order; of "train" at most 10,000 rows, evenly chosen.

    config: of the run.
    data: its data set.
    split: "train", "validation" or "test".
    task: of the run, whose objective says how outputs are read.
    params, state: of the trained model.
    threshold: of answers, or None.
    most: rows of "train", None for all.
    other_file: whether the data is another file than those of the run, as its split "train".
    Raises: ValueError when there is no such split, or its examples are not pairs (x, target).
    """
    where, model, objective = "held_out", as_model(task.model), task.objective
    check.choice(where, PARTS, split=split)
    tree, rows = split_rows(data, split, most)
    if tree is None:
        check.fail(where, f"the data has no {split} split.", hint="Use train, or another split.")

    compiled, parts = _compiled_outputs(model), []
    for batch in eval_batches(tree, min(config.eval_batch_size, count_examples(tree)), data.transform):
        if not parts:
            what, hint = f"an evaluation of {count_examples(batch.examples)} rows at once", "Make the batches smaller."
            device_memory.compile_checked(where, compiled, what, hint, params, state, batch)
        parts.append(jax.tree.map(lambda x, n=int(batch.count): x[:n], jax.device_get(compiled(params, state, batch))))
    output, target = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    if isinstance(output, tuple | list):
        output = np.concatenate([part.reshape(len(part), -1) for part in output], axis=1)
    output_type = objective.output_type if isinstance(objective, Objective) else ""
    ignored = objective.ignore_index if isinstance(objective, Objective) else None
    target = mark_ignored(target, output_type, ignored)
    output = restore_rows(config, data, split, output, rows, output_type)
    target = restore_rows(config, data, split, target, rows)
    ids, file = _row_ids(data.preprocessing if other_file else config.preprocessing, split, rows, data)
    record = None if other_file else config.preprocessing
    describe = None if data.preprocessing is None else _describer(data.preprocessing, file, record)
    return HeldOut(output_type, output, target, config.preprocessing.names, ids, threshold, describe=describe)


@lru_cache(maxsize=2)
def _compiled_outputs(model: Model) -> Callable[..., tuple[Any, Any]]:
    """The outputs and targets of a batch: compiled once for all splits of a run."""

    def outputs(params: Params, state: PyTree, batch: EvalBatch) -> tuple[Any, Any]:
        pair = batch.batch()
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            check.fail("held_out", expected="examples should be pairs (x, target)", actual=check.describe(pair))
        return model.apply(params, pair[0], state=state), pair[1]

    return jax.jit(outputs)


def at_threshold(
    config: Config, data: Dataset, split: str, task: Task, params: Params, state: PyTree
) -> tuple[HeldOut, Any]:
    """(the rows of a split, the threshold that the config asks for), chosen on the validation split; None without one.

    config, data, split, task, params, state: as for `held_out_rows`.
    """
    metric, threshold = threshold_metric(config, data), None
    parts = (task, params, state)
    if metric is not None:
        validation = held_out_rows(config, data, "validation", *parts)
        threshold = choose_threshold(validation, metric)
        if split == "validation":
            return validation._replace(threshold=threshold), threshold
    return held_out_rows(config, data, split, *parts, threshold=threshold), threshold


def threshold_metric(config: Config, data: Dataset) -> str | None:
    """The metric for which the config asks for a threshold; None without one, and without a validation split.

    config: of the run.
    data: its data set.
    """
    return None if data.validation is None else config.tables.get("task", {}).get("threshold")


def threshold_names(config: Config) -> list[str]:
    """The metrics of a run that follow its threshold. config: of the run."""
    return [n for n in ("accuracy", *config.tables.get("task", {}).get("metrics", ())) if n in THRESHOLD_METRICS]


def restore_rows(
    config: Config,
    data: Dataset,
    split: str,
    y: np.ndarray,
    rows: np.ndarray | None = None,
    output_type: str = "values",
) -> np.ndarray:
    """Outputs or targets [n, ...] of a split in the units of the data's file.

    config: of the run.
    data: its data set.
    split: of the rows.
    rows: the indices of some of the split, or None for all.
    output_type: of the outputs; "values" for targets.
    """
    names = window_series((data.preprocessing or config.preprocessing).facts, split)
    if config.preprocessing.factory != "forecasting" or names is None:
        return config.preprocessing.restore_target(y, output_type)
    names = names if rows is None else [names[row] for row in rows]
    return restore_series(config.preprocessing, y, output_type, names)


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


def _row_ids(
    record: Preprocessing | None, split: str, rows: np.ndarray | None, data: Dataset
) -> tuple[np.ndarray, str]:
    """(the positions of the rows in the file of the data, the split that the file is).

    Where that is unknown, the positions in the split, and "".
    record: of the files that data was read from, None for several files together.
    """
    chosen = np.arange(count_examples(data.arrays if split == "train" else getattr(data, split)))
    chosen = chosen if rows is None else rows
    if record is None:
        return chosen, ""
    hashes, file = record.rows, split
    if hashes is not None:
        at = np.flatnonzero((hashes & SPLIT_BITS) == PARTS.index(split))
        if len(at) and len(at) == count_examples(data.arrays if split == "train" else getattr(data, split)):
            chosen, file = at[chosen], "train"
        elif split == "train":  # the file has changed
            return chosen, ""
    return record.file_rows(file, chosen), file


def _describer(now: Preprocessing, file: str, record: Preprocessing | None) -> Callable[[int], str] | None:
    """row -> the file or the line of an example; None where that is unknown.

    now: of the data as it was read.
    file: the split that the file is.
    record: of the run, whose rows are those of the file as it was; None for another file. Of a file that has
        changed, lines are known where each row has one.
    """
    describe = now.describe.get(file)
    if describe is None or record is None or record.rows is None or file != "train":
        return describe
    if now.rows is None or np.array_equal(record.rows, now.rows):
        return describe
    first, last = (re.fullmatch(r"line (\d+)", describe(row)) for row in (0, len(now.rows) - 1))
    if not first or not last or int(last[1]) - int(first[1]) != len(now.rows) - 1:
        return None
    return lambda row: f"line {row + int(first[1])}"
