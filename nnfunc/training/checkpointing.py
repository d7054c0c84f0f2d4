"""What a run writes while it trains: metrics.jsonl, the last checkpoints, and the best one."""

import json
import math
import warnings
from collections.abc import Callable, Collection
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, checkpoint, documents
from nnfunc.base import Key
from nnfunc.runs import metrics_log
from nnfunc.runs.lock import FolderLock
from nnfunc.training.compiled import Carry
from nnfunc.training.step import TrainState

__all__ = ["Best", "Saver", "load_either", "run_identity"]

KEEP = 3  # checkpoints, beside the best one
SAVED = {
    "best?": str,
    "best_value?": float,
    "best_step?": int,
    "of?": dict,
    "loop?": str,
    "rollbacks?": range(2**31),
    "back_at?": int,
}
"""The metadata of a checkpoint; see `documents`."""


class Best(NamedTuple):
    """Which validation figure the best checkpoint has: the least or the greatest of a metric."""

    mode: str
    metric: str

    @staticmethod
    def of(text: str) -> "Best":
        mode, _, metric = text.partition(" ")
        if mode not in ("min", "max") or not metric:
            check.fail("train", f"best should be such as 'min loss' or 'max accuracy', got {text!r}.")
        return Best(mode, metric)

    def improves(self, figures: dict[str, float], than: float | None) -> bool:
        value = figures[self.metric]
        if not math.isfinite(value):
            return False
        return than is None or (value < than if self.mode == "min" else value > than)


def run_identity(key: Key, numbers: list[Any], static: tuple[Any, ...], data: Any, hypers: Any) -> dict[str, Any]:
    """What a run must have in common with the one that it goes on with, as JSON holds it.

    numbers, static: of `split_hypers`. hypers: what they were taken from, for names of the numbers.
    """
    found, _ = jax.tree_util.tree_flatten_with_path(hypers)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in found]
    kept = [name for name, n in zip(names, numbers, strict=False) if n is not None]
    return {
        "names": kept,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "numbers": [np.asarray(n).tolist() for n in numbers if n is not None],
        "static": repr([value for value in static if value is not None]),
        "data": {"size": data.size, "batch_size": data.batch_size, "seed": int(data.seed)},
    }


class Saver:
    """Writes a run's folder: `metrics.jsonl`, `checkpoints/step-...`, `checkpoints/best`.

    It is the only one that does until it is closed.
    """

    def __init__(
        self, folder: str | Path, best: Best, *, resume: bool | Collection[str], of: dict[str, Any], every: int = 1
    ):
        """of: the `identity` of the run. resume: whether to go on, or what may differ then.

        every: after how many steps a checkpoint is due; those of stops lie in between.
        """
        folder = Path(folder)
        self.of, self.every = of, every
        self.metrics, self.checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
        self.best, self.resume = best, resume
        self.saved: dict[str, Any] = {}
        self.step = 0
        saved = [self.metrics, self.checkpoints / "best"]
        begun = any(path.exists() for path in saved) or checkpoint.steps(self.checkpoints)
        if begun and not resume:
            cure = "Give another folder, or go on with resume=True."
            raise FileExistsError(f"{folder} already holds a run. {cure}")
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FolderLock(folder)

    def close(self) -> None:
        """Let another process go on with the folder."""
        self.lock.close()

    def restore(self, carry: Carry) -> Carry:
        """The carry of the last good checkpoint; the given one when there is none to go on from."""
        if not self.resume or not checkpoint.steps(self.checkpoints):
            return carry
        get = lambda state: checkpoint.latest_good(self.checkpoints, carry._replace(state=state))
        found, state = load_either(get, carry.state, lambda found: found.tree.state)
        if isinstance(carry.state.rate_scale, tuple) and not isinstance(state.rate_scale, tuple):
            if float(state.rate_scale) != 1:
                cure = "Leave rollback as it was."
                check.fail("train", f"the run has gone back before, at another rate since. {cure}")
            state = state._replace(rate_scale=())
        for reason in found.warnings:
            warnings.warn(f"{reason} Going on from step {found.step}.", stacklevel=3)
        self.saved, self.step = dict(found.metadata), found.step
        problem = documents.find_mismatch(self.saved, SAVED, "metadata")
        if problem:
            where = f"{self.checkpoints}: the checkpoint of step {found.step}"
            check.fail(where, f"{problem}. Remove that checkpoint, and go on from an earlier one.")
        for name, value in self.of.items():
            before = self.saved.get("of", {}).get(name, value)
            if name == "data" and isinstance(before, dict):  # no size where that may change
                before = {k: v for k, v in before.items() if k in value}
                value = {k: v for k, v in value.items() if k in before}
            before, value = (self._of_names(v) if name == "numbers" else v for v in (before, value))
            if before != value:
                cure = "Start another folder to change it."
                words = f"resume should go on with the same {name}, {_changed(before, value)}. {cure}"
                check.fail("train", words)
        if self.saved.get("best") != " ".join(self.best):  # values of another metric tell nothing
            self.saved = {k: v for k, v in self.saved.items() if not k.startswith("best")}
        return found.tree._replace(state=state)

    def _of_names(self, numbers: Any) -> Any:
        """Numbers by their names, without those that may differ, where names are known."""
        names = self.of.get("names") or []
        if not isinstance(numbers, list) or len(numbers) != len(names):
            return numbers
        free = () if isinstance(self.resume, bool) else self.resume
        return {n: value for n, value in zip(names, numbers, strict=True) if n not in free}

    def start_log(self) -> list[dict[str, Any]]:
        """The rows up to the step that the run goes on from; the file is cut back to them."""
        if not self.resume:
            self.metrics.unlink(missing_ok=True)
        return self.truncate_log(self.step)

    def load_before_divergence(self, like: Carry, first: Callable[[], Carry]) -> Carry:
        """The carry to go back to when the run has diverged: of the last checkpoint that was due.

        One that was gone back to before, and led here again, is given up for the one before it; first()
        is the carry of step 0, where no checkpoint is left.
        """
        due = [step for step in checkpoint.steps(self.checkpoints) if step % self.every == 0]
        before = self.saved.get("back_at")
        tried = due[:-1] if due and due[-1] == before else due
        while tried:
            try:
                place = self.checkpoints / f"step-{tried[-1]:08d}"
                read = partial(_carry_of, place, like)
                carry, state = load_either(read, like.state, attrgetter("state"))
                return carry._replace(state=state)
            except checkpoint.CheckpointError:
                tried.pop()
        return first()

    def save_rollback(self, carry: Carry, times: int) -> None:
        """Keep what the run goes back to, for the `times`-th time, in place of all that came after.

        The best checkpoint stays, though what led to it is gone: it is a good one.
        """
        step = int(carry.state.step)
        self.saved |= {"rollbacks": times, "back_at": step}
        checkpoint.save_step(self.checkpoints, step, carry, metadata=self.saved)
        checkpoint.remove(self.checkpoints, [s for s in checkpoint.steps(self.checkpoints) if s > step])
        self.step = step

    def truncate_log(self, step: int) -> list[dict[str, Any]]:
        """The rows up to a step, and what was gone back from; the file is cut back to them."""
        rows = metrics_log.rows_to_resume(self.metrics)
        rows = [row for row in rows if row["step"] <= step or row.get("event") == "rollback"]
        temporary = self.metrics.with_suffix(".tmp")
        temporary.write_text("".join(map(_line, rows)))
        temporary.replace(self.metrics)
        return rows

    def write(self, rows: list[dict[str, Any]]) -> None:
        with self.metrics.open("a") as file:
            file.writelines(map(_line, rows))

    def save(self, carry: Carry, step: int, figures: dict[str, float] | None, *, due: bool) -> None:
        """Save the state as the best one when it is, and as the last one when that is due."""
        self.step = step
        if figures and self.best.improves(figures, self.saved.get("best_value")):
            value = figures[self.best.metric]
            self.saved |= {"best_value": value, "best_step": step, "best": " ".join(self.best)}
            checkpoint.save_best(self.checkpoints, carry.state, metadata=self.saved)
        self.saved["of"] = self.of
        if due:
            others = [s for s in checkpoint.steps(self.checkpoints) if s % self.every and s < step]
            checkpoint.save_step(self.checkpoints, step, carry, metadata=self.saved, keep=KEEP + len(others))
            checkpoint.remove(self.checkpoints, others)  # of stops in between: they have served


def _changed(before: Any, value: Any) -> str:
    """What differs, by name where there are names.

    >>> _changed({"rate": 0.1, "decay": 0.0}, {"rate": 0.2, "decay": 0.0})
    'got rate 0.1 -> 0.2'
    """
    if isinstance(before, dict) and isinstance(value, dict) and before.keys() == value.keys():
        names = [name for name in before if before[name] != value[name]]
        return f"got {', '.join(f'{n} {_short(before[n])} -> {_short(value[n])}' for n in names)}"
    return f"{before}, got {value}"


def _short(value: Any) -> str:
    """A number in float32 by the digits that tell it from others: 0.05, not 0.05000000074505806."""
    narrow = np.float32(value) if isinstance(value, float) and abs(value) < 1e38 else value
    return str(narrow if narrow == value else value)


def _carry_of(place: Path, like: Carry, state: TrainState) -> Carry:
    return checkpoint.load(place, like._replace(state=state))


def load_either(
    get: Callable[[TrainState], Any], like: TrainState, state: Callable[[Any], TrainState]
) -> tuple[Any, TrainState]:
    """What get(like) gives and the state in it, where the one may roll back and the other not.

    get: reads what has the structure of a state. state: the state in what it gave.
    """
    try:
        found = get(like)
        return found, state(found)
    except ValueError as error:
        if isinstance(error, checkpoint.CheckpointError):
            raise
        one = jnp.ones((), jnp.float32)
        able = not isinstance(like.rate_scale, tuple)
        try:
            found = get(like._replace(rate_scale=() if able else one))
        except ValueError:
            raise error from None
        own = state(found)
        return found, own._replace(rate_scale=one if able else own.rate_scale)


def _line(row: dict[str, Any]) -> str:
    """A row as a line of JSON, which has no number that is not finite: null."""
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
