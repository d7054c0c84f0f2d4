"""What a sweep gives: a table, curves, and every trial as it ended."""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.checkpointing import Saver, run_identity
from nnfunc.training.compiled import split_hypers
from nnfunc.training.divergence import Fault, find_step_fault
from nnfunc.training.step import TrainState
from nnfunc.training.task import build_task

__all__ = ["Result", "Table", "Trial"]

FAULTS = 20
"""Of so many trials the layer in which they diverged is looked for: each is a program of its own."""


class Trial(NamedTuple):
    """One run of a sweep.

    hypers: its hyperparameters. state: its train state at the end, None where
    build refused the hypers, or the sweep was stopped before it began. curves: name -> [reports].
    `state.key` is the key that it ran with.
    """

    hypers: dict[str, Any]
    state: TrainState | None
    curves: dict[str, np.ndarray]


class Table(list[dict[str, Any]]):
    """A list of dicts, one a row, with the same names in all."""

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`. Raises: ModuleNotFoundError without pandas."""
        import pandas  # pyright: ignore[reportMissingImports]

        return pandas.DataFrame(list(self))


@dataclass
class Result:
    """A sweep that has run; NumPy arrays on the host.

    hypers: what each trial was given. curves: "train/loss", "validation/accuracy" and the like ->
    [trials, reports]; not a number where a trial did not report, as once it has diverged or was
    ended. steps: "train" and "validation" -> the step of each report. scores: [trials], the last
    value of `metric`, the metric that ranks, of which `best` names the least or greatest; not a number for
    diverged trials. diverged: trial -> the first step (0-based) that was not finite. refused: trial
    -> why build refused its hypers. stopped_at: trial -> the step at which a search ended it; ranks_last:
    those of them that rank behind all that went further. best_at: trial -> the step of its best
    evaluation, by which it ranks and at which its state is, where the search keeps that; see
    `nnfunc.sweeps.patience`. seeds: runs a setting; seed: [trials], which
    run each is. lineage: what population based training did, a row a copy. layers: diverged trial ->
    the layer where that began, once `find_layers` has looked. complete: whether it came to its end.
    plan: the groups, and how they ran. seconds: the whole sweep, this time.
    """

    hypers: list[dict[str, Any]]
    metric: BestMetric
    seeds: int
    plan: Plan
    steps: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    scores: np.ndarray
    diverged: dict[int, int]
    refused: dict[int, str]
    stopped_at: dict[int, int]
    ranks_last: set[int]
    seed: list[int]
    lineage: list[dict[str, Any]]
    complete: bool
    seconds: float
    _carries: dict[int, Any] = field(repr=False)
    _impl: str | None = field(repr=False)  # of the keys; None for those of the old style
    _specs: list[TrialSpec] | None = field(repr=False, default=None)
    layers: dict[int, str] = field(default_factory=dict)
    best_at: dict[int, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Without build and data, which a pickle may refuse; hypers have to be what it takes."""
        return self.__dict__ | {"_specs": None}

    @property
    def best(self) -> int | None:
        """The trial that ranks first: with seeds the first run of the setting with the best mean."""
        first = self._order(self.seeds)[0]
        return first[0] if math.isfinite(self._key(first)[-1]) else None

    def trial(self, i: int) -> Trial:
        """(hypers, state, curves) of one trial, or of the last ones for negative i.

        Raises: IndexError when there is no such trial.
        """
        count = len(self.hypers)
        if not -count <= i < count:
            check.fail("trial", f"i should be in [0, {count}), got {i}.", exc_type=IndexError)
        i %= count
        curves = {name: curve[i] for name, curve in self.curves.items()}
        state = None
        if i in self._carries:
            state = jax.tree.map(jnp.asarray, self._carries[i].state)
            if self._impl is not None:
                key = jax.random.wrap_key_data(state.key, impl=self._impl)
                state = state._replace(key=key)
        return Trial(dict(self.hypers[i]), state, curves)

    def save_trial(self, i: int, folder: str | Path) -> None:
        """Write a trial as a run that `nf.train` may go on with: checkpoints and metrics.jsonl.

        Its last state is also the best checkpoint. To train it further, call `nf.train` with its build,
        hypers, data and key (`trial(i).state.key`), more steps, this folder and resume=True.
        Raises: ValueError when it did not run, or the result was pickled; FileExistsError when the
        folder holds a run.
        """
        _, state, curves = self.trial(i)
        if state is None:
            why = self.refused.get(i % len(self.hypers), "the sweep was stopped before")
            check.fail("sweep", f"trial {i} should have run, but did not: {why}")
        spec = self.spec(i)
        numbers, static, _ = split_hypers(spec.hypers)
        of = run_identity(state.key, numbers, static, spec.ordered, spec.hypers)
        saver = Saver(folder, self.metric, resume=False, of=of)
        try:
            carry = jax.tree.map(jnp.asarray, self._carries[i % len(self.hypers)])
            rows = _rows(curves, self.steps, int(state.step))
            metrics = {self.metric.name: float(self.scores[i])}
            saver.write(rows)
            saver.save(carry._replace(state=state), int(state.step), metrics, due=True)
        finally:
            saver.close()

    def fault(self, i: int) -> Fault | None:
        """Where the first value that is not finite of a diverged trial came from; None of others.

        Raises: ValueError for a result that was pickled: it has lost build and data.
        """
        state = self.trial(i).state
        if state is None or int(state.diverged_at) < 0:
            return None
        spec = self.spec(i)
        task = build_task(spec.build, spec.hypers, int(state.diverged_at))
        fault = find_step_fault(task, state, spec.ordered.for_training().batch)
        return fault._replace(trial=i % len(self.hypers))

    def find_layers(self, most: int = FAULTS) -> dict[int, str]:
        """The layers in which the first `most` diverged trials did so; kept as `layers`."""
        for trial in list(self.diverged)[:most]:
            if trial not in self.layers and (fault := self.fault(trial)) is not None:
                self.layers[trial] = str(fault)
        return self.layers

    def spec(self, i: int) -> TrialSpec:
        """What a trial was to do: build, hypers, data. Raises: ValueError where a pickle lost it."""
        if self._specs is None:
            hint = "Ask the result that nf.sweep returned."
            check.fail("sweep", f"a result that was pickled holds no build and no data. {hint}")
        return self._specs[i]

    def table(self, by: Literal["auto", "trial", "setting"] = "auto") -> Table:
        """The trials, best first: what each was given, and its last figures.

        by: "trial" for a row a run; "setting" for a row a setting, with the mean over its seeds of
        each figure, the ends of the 95 % interval of the mean (Student's t), and how many diverged;
        "auto": by setting where there are several seeds. A setting of which a run diverged ranks
        behind those of which none did. stopped_at: the step at which a run was ended before its last,
        whose figures are from there; of a setting the first such step, and `stopped` is how many of
        its runs that were. best_at: the step of the best evaluation, where the search keeps that
        state: the figures are from there. refused: why build refused the hypers.
        """
        check.choice("table", ("auto", "trial", "setting"), by=by)
        rows = self._trial_rows()
        if by == "setting" or (by == "auto" and self.seeds > 1):
            rows = [self._setting(rows[first : first + self.seeds]) for first in range(0, len(rows), self.seeds)]
        runs = len(self.hypers) // len(rows)
        return Table(rows[trials[0] // runs] for trials in self._order(runs))

    def save(self, folder: str | Path) -> None:
        """Write table.csv, and curves.csv: a row a report of a trial; with seeds trials.csv too.

        The same as .parquet, where pyarrow is installed. lineage.csv after population based training.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write(self.table(), folder / "table")
        if self.seeds > 1:
            _write(self.table("trial"), folder / "trials")
        if self.lineage:
            _write(Table(self.lineage), folder / "lineage")
        _write(self._long(), folder / "curves")

    def _long(self) -> Table:
        """The curves, a row a report of a trial."""
        metrics = list(dict.fromkeys(name.partition("/")[2] for name in self.curves))
        rows = Table()
        for trial in range(len(self.hypers)):
            for split, steps in self.steps.items():
                for position, step in enumerate(steps):
                    known = [self.curves.get(f"{split}/{name}") for name in metrics]
                    values = [None if c is None else float(c[trial, position]) for c in known]
                    if any(value is not None and not math.isnan(value) for value in values):
                        row = {"trial": trial, "split": split, "step": int(step)}
                        rows.append(row | dict(zip(metrics, values, strict=True)))
        return rows

    @property
    def rank(self) -> str:
        """The curve that ranks, such as "validation/loss"."""
        validation = f"validation/{self.metric.name}"
        return validation if validation in self.curves else f"train/{self.metric.name}"

    def _order(self, runs: int) -> list[list[int]]:
        """The trials, so many in a row of one setting, best first; ties as they were drawn."""
        count = len(self.hypers)
        settings = [list(range(first, first + runs)) for first in range(0, count, runs)]
        return sorted(settings, key=self._key)

    def _key(self, trials: list[int]) -> tuple[bool, bool, bool, int, float]:
        """What is least for the best setting.

        Refused ones come last, before them those without a score, before them those that are judged by
        another split than others, and before them those that a search gave up.
        """
        scores = self.scores[trials]
        mean = float(np.mean(scores if self.metric.mode == "min" else -scores))
        cost = mean if math.isfinite(mean) else math.inf
        rank = self.curves.get(self.rank)
        apart = rank is not None and any(math.isnan(last(rank[m])) for m in trials)
        refused = any(m in self.refused for m in trials)
        lost = [self.plan.steps - self.stopped_at[m] if m in self.ranks_last else 0 for m in trials]
        return refused, cost == math.inf, apart, max(lost), cost

    def _trial_rows(self) -> list[dict[str, Any]]:
        rows = []
        for i, hypers in enumerate(self.hypers):
            row: dict[str, Any] = {"trial": i}
            if self.seeds > 1:
                row |= {"setting": i // self.seeds, "seed": self.seed[i]}
            row |= {name: _cell(value) for name, value in hypers.items()}
            row |= {name: self._last(name, i) for name in self.curves}
            if i in self.diverged:  # its last train figures may be from before
                row[self.rank] = math.nan
            row["diverged_at"] = self.diverged.get(i)
            if self.stopped_at or not self.complete:
                row["stopped_at"] = self._stopped_at(i)
            if self.best_at:
                row["best_at"] = self.best_at.get(i)
            row["refused"] = self.refused.get(i)
            rows.append(row)
        return rows

    def _last(self, name: str, i: int) -> float:
        """The figure of a trial by its last report, or by that of its best evaluation."""
        steps, curve = self.steps[name.partition("/")[0]], self.curves[name][i]
        return last(curve[steps <= self.best_at[i]] if i in self.best_at else curve)

    def _stopped_at(self, i: int) -> int | None:
        """The step at which a trial was ended, by a search or with the sweep; None at its last."""
        if i in self.stopped_at or self.complete:
            return self.stopped_at.get(i)
        step = int(self._carries[i].state.step) if i in self._carries else 0
        steps = self.plan.steps if self._specs is None else self._specs[i].intervals.steps
        return step if step < steps else None

    def _setting(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        row = {name: rows[0][name] for name in ("setting", *self.hypers[0])}
        for name in self.curves:
            mean, low, high = interval(np.asarray([r[name] for r in rows]))
            row |= {name: mean, f"{name} low": low, f"{name} high": high}
        row["runs"] = len(rows)
        row["diverged"] = sum(r["diverged_at"] is not None for r in rows)
        if "stopped_at" in rows[0]:
            steps = [r["stopped_at"] for r in rows if r["stopped_at"] is not None]
            row |= {"stopped": len(steps), "stopped_at": min(steps, default=None)}
        row["refused"] = next((r["refused"] for r in rows if r["refused"] is not None), None)
        return row


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean, and the ends of its 95 % interval: mean -+ t * deviation / sqrt(n), n - 1 degrees."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count < 2 or not np.isfinite(mean):
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return mean, mean - half, mean + half


def _rows(curves: dict[str, np.ndarray], steps: dict[str, np.ndarray], until: int) -> list[dict[str, Any]]:
    """The curves of a trial as the rows of metrics.jsonl."""
    rows = []
    for split, at in steps.items():
        split_curves = {n.partition("/")[2]: c for n, c in curves.items() if n.startswith(f"{split}/")}
        for position, step in enumerate(at):
            metrics = {name: float(curve[position]) for name, curve in split_curves.items()}
            if step <= until and metrics:
                rows.append({"split": split, "step": int(step), "seconds": 0.0, **metrics})
    return sorted(rows, key=lambda row: row["step"])


def last(curve: np.ndarray) -> float:
    """The last value that was reported; of a figure that broke, that is not a number."""
    known = np.flatnonzero(~np.isnan(curve))
    return float(curve[known[-1]]) if known.size else math.nan


def _cell(value: Any) -> Any:
    """A value as a table holds it."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if np.ndim(value) == 0 and hasattr(value, "item"):
        return value.item()
    return getattr(value, "__name__", None) or str(value)


def _write(table: Table, file: Path) -> None:
    if not table:
        return
    with open(file.with_suffix(".csv"), "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    columns = {name: [row[name] for row in table] for name in table[0]}
    for name, column in columns.items():  # a column has one type
        if len({type(value) for value in column} - {type(None), int, float}) > 0:
            columns[name] = [None if value is None else str(value) for value in column]
    parquet.write_table(pyarrow.table(columns), file.with_suffix(".parquet"))
