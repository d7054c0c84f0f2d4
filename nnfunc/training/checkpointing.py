"""What a run writes while it trains: metrics.jsonl, the last checkpoints, and the best one."""

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, checkpoint, documents
from nnfunc.base import Key
from nnfunc.checkpoint import sharded_tensors
from nnfunc.distributed import processes
from nnfunc.distributed.arrays import local_arrays, put_like
from nnfunc.runs import metrics_log
from nnfunc.runs.best_metric import BestMetric
from nnfunc.runs.lock import FolderLock
from nnfunc.training.compiled import Carry
from nnfunc.training.train_state import TrainState

KEEP = 3  # checkpoints, beside the best one
SAVED = {
    "best?": str,
    "best_value?": float,
    "best_step?": int,
    "of?": dict,
    "loop?": str,
    "forms?": {str: str},
    "rollbacks?": range(2**31),
    "back_at?": int,
}
"""The metadata of a checkpoint; see `documents`."""


def run_identity(key: Key, numbers: list[Any], static: tuple[Any, ...], data: Any, hypers: Any) -> dict[str, Any]:
    """What a resumed run must have in common with the run it continues, as JSON.

    key: of the run.
    numbers, static: of `split_hypers`.
    data: the data set.
    hypers: of which the numbers are, for their names.
    """
    items, _ = jax.tree_util.tree_flatten_with_path(hypers)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in items]
    return {
        "names": [name for name, n in zip(names, numbers, strict=False) if n is not None],
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "numbers": [np.asarray(n).tolist() for n in numbers if n is not None],
        "static": repr([value for value in static if value is not None]),
        "data": {"size": data.size, "batch_size": data.batch_size, "seed": int(data.seed)},
    }


def saved_forms(folder: str | Path) -> dict[str, str] | None:
    """The forms of operations that the run of a folder is traced with, see `tuning`; None without a checkpoint.

    folder: of the run.
    """
    root = Path(folder) / "checkpoints"
    names = [f"step-{step:08d}" for step in reversed(checkpoint.steps(root))]
    for name in (*names, "best"):
        with contextlib.suppress(checkpoint.CheckpointError):
            metadata = checkpoint.inspect(root / name)["metadata"]
            if not documents.find_mismatch(metadata, SAVED):
                return metadata.get("forms", {})
    return None


class Saver:
    """Writes a run's folder: `metrics.jsonl`, `checkpoints/step-...`, `checkpoints/best`.

    It holds the folder's lock until it is closed.
    folder: of the run.
    best: the metric that the best checkpoint is chosen by.
    resume: whether to continue, or the names of hypers that may differ then.
    of: the `run_identity`.
    every: the interval of checkpoints in steps; stops save checkpoints in between.
    """

    def __init__(
        self,
        folder: str | Path,
        best: BestMetric,
        *,
        resume: bool | Collection[str],
        of: dict[str, Any],
        every: int = 1,
    ):
        folder = Path(folder)
        self.identity, self.every = of, every
        self.metrics, self.checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
        self.best, self.resume = best, resume
        self.saved: dict[str, Any] = {}
        self.step = 0
        files = [self.metrics, self.checkpoints / "best"]
        has_run = any(path.exists() for path in files) or checkpoint.steps(self.checkpoints)
        self.writes = processes.is_main()
        if has_run and not resume and self.writes:
            raise FileExistsError(f"{folder} already holds a run. Give another folder, or continue with resume=True.")
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(folder)

    def close(self) -> None:
        """Release the folder to other processes."""
        if self.writes:
            self.lock.close()

    def restore(self, carry: Carry) -> Carry:
        """The carry of the last good checkpoint; without a checkpoint to resume from, the argument.

        carry: that of step 0.
        Raises: ValueError when the run differs from the one that saved the checkpoint.
        """
        if not self.resume or not checkpoint.steps(self.checkpoints):
            return carry
        load = lambda state: checkpoint.latest_good(self.checkpoints, carry._replace(state=state))
        latest, state = load_either(load, carry.state, lambda latest: latest.tree.state)
        if isinstance(carry.state.rate_scale, tuple) and not isinstance(state.rate_scale, tuple):
            if float(state.rate_scale) != 1:
                problem = "the run has rolled back to another learning rate before."
                check.fail("train", problem, hint="Leave rollback as it was.")
            state = state._replace(rate_scale=())
        for reason in latest.warnings:
            warnings.warn(f"{reason} Continuing from step {latest.step}.", stacklevel=3)
        self.saved, self.step = dict(latest.metadata), latest.step
        problem = documents.find_mismatch(self.saved, SAVED, "metadata")
        if problem:
            where = f"{self.checkpoints}: the checkpoint of step {latest.step}"
            check.fail(where, f"{problem}.", hint="Remove that checkpoint, and continue from an earlier one.")
        self._check_identity()
        if self.saved.get("best") != str(self.best):  # the values of another metric are of no use
            self.saved = {k: v for k, v in self.saved.items() if not k.startswith("best")}
        return put_like(latest.tree._replace(state=state), carry)

    def _check_identity(self) -> None:
        """Refuse to continue the run with another key, other numbers or other data."""
        for name, value in self.identity.items():
            before = self.saved.get("of", {}).get(name, value)
            if name == "data" and isinstance(before, dict):  # without the size, if that may change
                before = {k: v for k, v in before.items() if k in value}
                value = {k: v for k, v in value.items() if k in before}
            if name == "numbers":
                before, value = self._named_numbers(before), self._named_numbers(value)
            if before != value:
                problem = f"resume should continue with the same {name}, {_describe_change(before, value)}."
                check.fail("train", problem, hint="Start another folder to change it.")

    def _named_numbers(self, numbers: Any) -> Any:
        """Numbers by name, without those that may differ, if their names are known."""
        names = self.identity.get("names") or []
        if not isinstance(numbers, list) or len(numbers) != len(names):
            return numbers
        free = () if isinstance(self.resume, bool) else self.resume
        return {n: value for n, value in zip(names, numbers, strict=True) if n not in free}

    def start_log(self) -> list[dict[str, Any]]:
        """The rows up to the step that the run continues from; later rows are cut from the file."""
        if not self.resume and self.writes:
            self.metrics.unlink(missing_ok=True)
        return self.truncate_log(self.step)

    def load_before_divergence(self, like: Carry, init: Callable[[], Carry]) -> Carry:
        """The carry of the last regular checkpoint before a divergence.

        A checkpoint that the run returned to before, and that led to a divergence again, is skipped for
        the one before it.
        like: a carry of the run, or its shapes.
        init: makes the carry of step 0, for want of a checkpoint.
        """
        self.wait()
        regular = [step for step in checkpoint.steps(self.checkpoints) if step % self.every == 0]
        candidates = regular[:-1] if regular and regular[-1] == self.saved.get("back_at") else regular
        while candidates:
            folder = self.checkpoints / f"step-{candidates.pop():08d}"
            with contextlib.suppress(checkpoint.CheckpointError):
                load = lambda state: checkpoint.load(folder, like._replace(state=state))  # noqa: B023
                carry, state = load_either(load, like.state, lambda carry: carry.state)
                return put_like(carry._replace(state=state), like)
        return init()

    def save_rollback(self, carry: Carry, times: int) -> None:
        """Save the carry of the `times`-th rollback, and remove all later checkpoints but the best one."""
        step = int(carry.state.step)
        self.saved |= {"rollbacks": times, "back_at": step}
        self._write(checkpoint.save_step, self.checkpoints, step, tree=carry)
        self.wait()
        if self.writes:
            checkpoint.remove(self.checkpoints, [s for s in checkpoint.steps(self.checkpoints) if s > step])
        self.step = step

    def wait(self) -> None:
        """Wait until every checkpoint is on the disk, for all processes."""
        checkpoint.wait()
        processes.wait_for_all()

    def _write(self, save: Callable[..., Any], *where: Any, tree: Any, **options: Any) -> None:
        """Save a tree: process 0, or all of them together where its arrays are cut over them, with orbax-checkpoint."""
        together = any(map(sharded_tensors.is_cut, jax.tree.leaves(tree))) and sharded_tensors.is_installed()
        tree = tree if together else local_arrays(tree)
        if together or self.writes:
            save(*where, tree, metadata=self.saved, **options)

    def truncate_log(self, step: int) -> list[dict[str, Any]]:
        """The rows up to a step, and those of rollbacks; the other rows are cut from the file."""
        rows = metrics_log.read_rows(self.metrics)
        rows = [row for row in rows if row["step"] <= step or row.get("event") == "rollback"]
        if not self.writes:
            return rows
        documents.write_file(self.metrics, "".join(map(_to_line, rows)).encode())
        return rows

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows to metrics.jsonl."""
        if not self.writes:
            return
        with self.metrics.open("a") as file:
            file.writelines(map(_to_line, rows))

    def save(self, carry: Carry, step: int, metrics: dict[str, float] | None, *, due: bool) -> None:
        """Save the best checkpoint if the metrics are better, and the regular one if it is due.

        carry: of the run.
        step: steps done.
        metrics: of the validation split, None without an evaluation.
        due: whether a checkpoint is due.
        """
        self.step = step
        if metrics and self.best.improves(metrics, self.saved.get("best_value")):
            value = metrics[self.best.name]
            self.saved |= {"best_value": value, "best_step": step, "best": str(self.best)}
            self._write(checkpoint.save_best, self.checkpoints, tree=carry.state)
        self.saved["of"] = self.identity
        if due:
            of_stops = [s for s in checkpoint.steps(self.checkpoints) if s % self.every and s < step]
            self._write(checkpoint.save_step, self.checkpoints, step, tree=carry, keep=KEEP, replaced=of_stops)


def _describe_change(before: Any, value: Any) -> str:
    """The old and the new value, by name if they have names.

    >>> _describe_change({"rate": 0.1, "decay": 0.0}, {"rate": 0.2, "decay": 0.0})
    'got rate 0.1 -> 0.2'
    """
    if isinstance(before, dict) and isinstance(value, dict) and before.keys() == value.keys():
        names = [name for name in before if before[name] != value[name]]
        return f"got {', '.join(f'{n} {_short(before[n])} -> {_short(value[n])}' for n in names)}"
    return f"{before}, got {value}"


def _short(value: Any) -> str:
    """A float32 in as few digits as identify it: 0.05, not 0.05000000074505806."""
    narrow = np.float32(value) if isinstance(value, float) and abs(value) < 1e38 else value
    return str(narrow if narrow == value else value)


def load_either(
    load: Callable[[TrainState], Any], like: TrainState, state_of: Callable[[Any], TrainState]
) -> tuple[Any, TrainState]:
    """(result, state), where only one of the saved run and this one may have a rate_scale.

    load: reads what has the structure of a state.
    like: a state of this run, or its shapes.
    state_of: the state in the result of load; it comes back with a rate_scale if `like` has one.
    """
    try:
        result = load(like)
        return result, state_of(result)
    except ValueError as error:
        if isinstance(error, checkpoint.CheckpointError):
            raise
        one = jnp.ones((), jnp.float32)
        has_scale = not isinstance(like.rate_scale, tuple)
        try:
            result = load(like._replace(rate_scale=() if has_scale else one))
        except ValueError:
            raise error from None
        state = state_of(result)
        return result, state._replace(rate_scale=one if has_scale else state.rate_scale)


def _to_line(row: dict[str, Any]) -> str:
    """A row as a line of JSON, in which numbers that are not finite become null."""
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
