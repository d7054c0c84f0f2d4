"""The result of a sweep: a table, curves, and the state of every trial."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Key
from nnfunc.display import text_table
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.result_table import Table, table_cell, write_table
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.checkpointing import Saver, run_identity
from nnfunc.training.compiled import split_hypers
from nnfunc.training.divergence import Fault, find_step_fault
from nnfunc.training.task import build_task

FAULTS = 20
"""The most diverged trials for which `find_layers` finds the layer: each compiles a program."""


class Trial(NamedTuple):
    """One run of a sweep.

    hypers: its hyperparameters.
    state: its last TrainState, None when build refused the hypers, or the sweep stopped before the run began;
        `state.key` is the key of the run.
    curves: name -> [reports].
    """

    hypers: dict[str, Any]
    state: Any
    curves: dict[str, np.ndarray]


@dataclass
class Result:
    """The result of a sweep, as NumPy arrays on the host.

    hypers: the settings of each trial.
    metric: ranks the trials.
    seeds: how many runs each setting has.
    plan: the groups, and how they ran.
    steps: "train" and "validation" -> the step of each report.
    curves: names such as "train/loss" and "validation/accuracy" -> [trials, reports], NaN where a trial did not
        report, as after it diverged or was stopped.
    scores: [trials], the last value of `metric`, NaN for diverged trials; `best` is the trial with the least or
        greatest one.
    diverged: trial -> the first step (0-based) that was not finite.
    refused: trial -> why build refused its hypers.
    stopped_at: trial -> the step at which a search stopped it.
    ranks_last: the stopped trials that rank below all trials that ran further.
    seed: [trials], the number of the run among those of its setting.
    lineage: a row for each copy of population based training.
    complete: whether the sweep ran to its end.
    seconds: that it took, since it was last resumed.
    layers: diverged trial -> the layer where that began, once `find_layers` was called.
    best_at: trial -> the step of its best evaluation, where the search ranks by that and keeps its state; see
        `nnfunc.sweeps.patience`.
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
    _impl: str | None = field(repr=False)  # of typed keys; None for raw ones
    _specs: list[TrialSpec] | None = field(repr=False, default=None)
    layers: dict[int, str] = field(default_factory=dict)
    best_at: dict[int, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = {"diverged": self.diverged, "stopped early": self.stopped_at, "refused": self.refused}
        ended = [f"{len(trials)} {how}" for how, trials in counts.items() if trials]
        runs = ", ".join([f"Result of {check.counted(len(self.hypers), 'run')}", *ended])
        table = self.table()
        more = [f"and {len(table) - 10} more; all are in result.table()"] if len(table) > 10 else []
        return "\n".join([f"{runs}, ranked by {self.metric}:", *text_table(table.cells(10, self.rank), 0), *more])

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __getstate__(self) -> dict[str, Any]:
        """Without build and data, which may not pickle. The hypers have to."""
        return self.__dict__ | {"_specs": None}

    @property
    def best(self) -> int | None:
        """The trial that ranks first, or None without scores; with seeds, the first run of the best setting."""
        first = self._order(self.seeds)[0]
        return first[0] if math.isfinite(self._sort_key(first)[-1]) else None

    def trial(self, i: int | None) -> Trial:
        """(hypers, state, curves) of a trial.

        i: its index, negative from the end, such as `best`.
        Raises: IndexError when there is no such trial; ValueError for None, which is the best of trials that all
        diverged.
        """
        count = len(self.hypers)
        if i is None:
            hint = "result.best is None when no trial has a score: print(result) shows why."
            check.fail("trial", expected=f"i should be in [0, {count})", actual="None", hint=hint)
        if not -count <= i < count:
            check.fail("trial", expected=f"i should be in [0, {count})", actual=i, exc_type=IndexError)
        i %= count
        curves = {name: curve[i] for name, curve in self.curves.items()}
        state = None
        if i in self._carries:
            state = jax.tree.map(jnp.asarray, self._carries[i].state)
            if self._impl is not None:
                state = state._replace(key=jax.random.wrap_key_data(state.key, impl=self._impl))
        return Trial(dict(self.hypers[i]), state, curves)

    def save_trial(self, i: int, folder: str | Path) -> None:
        """Write a trial as a run that `nf.train` can resume: checkpoints and metrics.jsonl.

        Its last state is also the best checkpoint. To train it further, call `nf.train` with its build,
        hypers, data and key (`trial(i).state.key`), more steps, this folder and resume=True.
        i: its index.
        folder: made if it is missing.
        Raises: ValueError when it did not run, or the result was pickled; FileExistsError when the folder has a
        run.
        """
        _, state, _ = self.trial(i)
        if state is None:
            why = self.refused.get(i % len(self.hypers), "the sweep stopped before it began")
            check.fail("sweep", f"trial {i} has no state, because it did not run: {why.rstrip('.')}.")
        spec = self.spec(i)
        numbers, static, _ = split_hypers(spec.hypers)
        of = run_identity(state.key, numbers, static, spec.ordered, spec.hypers)
        saver = Saver(folder, self.metric, resume=False, of=of)
        try:
            carry = jax.tree.map(jnp.asarray, self._carries[i % len(self.hypers)])
            metrics = {self.metric.name: float(self.scores[i])}
            rows = [{"split": split, "step": step, "seconds": 0.0, **v} for split, step, v in self._reports(i)]
            rows.sort(key=lambda row: row["step"])
            saver.write([row for row in rows if row["step"] <= state.step])
            saver.save(carry._replace(state=state), int(state.step), metrics, due=True)
        finally:
            saver.close()

    def fault(self, i: int) -> Fault | None:
        """The layer where a diverged trial first had a value that is not finite; None for other trials.

        i: its index.
        Raises: ValueError for a result that was pickled, which has no build and no data.
        """
        state = self.trial(i).state
        if state is None or int(state.diverged_at) < 0:
            return None
        spec = self.spec(i)
        task = build_task(spec.build, spec.hypers, int(state.diverged_at))
        fault = find_step_fault(task, state, spec.ordered.for_training().batch)
        return fault._replace(trial=i % len(self.hypers))

    def find_layers(self, most: int = FAULTS) -> dict[int, str]:
        """The layers where the first `most` diverged trials diverged; also `layers` from now on."""
        for trial in list(self.diverged)[:most]:
            if trial not in self.layers and (fault := self.fault(trial)) is not None:
                self.layers[trial] = str(fault)
        return self.layers

    def spec(self, i: int) -> TrialSpec:
        """The build, hypers, data and key of a trial. i: its index. Raises: ValueError for a pickled result."""
        if self._specs is None:
            hint = "Use the result that nf.sweep returned."
            check.fail("sweep", "a result that was pickled has no build and no data.", hint=hint)
        return self._specs[i]

    def table(self, by: Literal["auto", "trial", "setting"] = "auto") -> Table:
        """The trials, best first: their hyperparameters and last metrics.

        by: "trial" for a row for each run; "setting" for a row for each setting, with the mean of each metric over
            its seeds, the ends of the 95 % interval of the mean (Student's t), and how many runs diverged; "auto":
            by setting if there are several seeds. A setting with a diverged run ranks below those without. Column
            stopped_at: the step at which a search stopped a run, where its metrics are from; for a setting the
            first such step, and `stopped` counts the runs. best_at: the step of the best evaluation, if the search
            keeps its state; the metrics are from there. refused: why build refused the hypers.
        """
        check.choice("table", ("auto", "trial", "setting"), by=by)
        rows = self._trial_rows()
        if by == "setting" or (by == "auto" and self.seeds > 1):
            rows = [self._setting(rows[first : first + self.seeds]) for first in range(0, len(rows), self.seeds)]
        runs = len(self.hypers) // len(rows)
        return Table(rows[trials[0] // runs] for trials in self._order(runs))

    def save(self, folder: str | Path) -> None:
        """Write table.csv, curves.csv (a row for each report of a trial) and, with several seeds, trials.csv.

        Population based training adds lineage.csv. All are also written as .parquet if pyarrow is installed.
        folder: made if it is missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_table(self.table(), folder / "table")
        if self.seeds > 1:
            write_table(self.table("trial"), folder / "trials")
        if self.lineage:
            write_table(Table(self.lineage), folder / "lineage")
        write_table(self._long(), folder / "curves")

    def _reports(self, i: int) -> Iterator[tuple[str, int, dict[str, float]]]:
        """(split, step, name -> value) of each report of a trial, NaN where it did not report."""
        for split, steps in self.steps.items():
            curves = {n.partition("/")[2]: c[i] for n, c in self.curves.items() if n.startswith(f"{split}/")}
            for position, step in enumerate(steps if curves else ()):
                yield split, int(step), {name: float(curve[position]) for name, curve in curves.items()}

    def _long(self) -> Table:
        """The curves, a row for each report of a trial."""
        missing = dict.fromkeys(name.partition("/")[2] for name in self.curves)
        return Table(
            {"trial": trial, "split": split, "step": step, **missing, **values}
            for trial in range(len(self.hypers))
            for split, step, values in self._reports(trial)
            if not all(map(math.isnan, values.values()))
        )

    @property
    def rank(self) -> str:
        """The curve that ranks, such as "validation/loss"."""
        validation = f"validation/{self.metric.name}"
        return validation if validation in self.curves else f"train/{self.metric.name}"

    def _order(self, runs: int) -> list[list[int]]:
        """The trials of each setting of `runs` runs, best first; ties in the order of being drawn."""
        settings = [list(range(first, first + runs)) for first in range(0, len(self.hypers), runs)]
        return sorted(settings, key=self._sort_key)

    def _sort_key(self, trials: list[int]) -> tuple[bool, bool, bool, int, float]:
        """The sort key of a setting, least for the best one.

        The order is: by score; those that a search stopped for good; those whose score is of another split than
        that of others; those without a score; refused ones.
        """
        scores = self.scores[trials]
        mean = float(np.mean(scores if self.metric.mode == "min" else -scores))
        cost = mean if math.isfinite(mean) else math.inf
        rank = self.curves.get(self.rank)
        other_split = rank is not None and any(math.isnan(_last(rank[m])) for m in trials)
        refused = any(m in self.refused for m in trials)
        missing_steps = [self.plan.steps - self.stopped_at[m] if m in self.ranks_last else 0 for m in trials]
        return refused, cost == math.inf, other_split, max(missing_steps), cost

    def _trial_rows(self) -> list[dict[str, Any]]:
        rows = []
        for i, hypers in enumerate(self.hypers):
            row: dict[str, Any] = {"trial": i}
            if self.seeds > 1:
                row |= {"setting": i // self.seeds, "seed": self.seed[i]}
            row |= {name: table_cell(value) for name, value in hypers.items()}
            for name, curve in self.curves.items():
                is_current = self.steps[name.partition("/")[0]] <= self.best_at.get(i, math.inf)
                row[name] = _last(curve[i][is_current])
            if i in self.diverged:  # the last value may be from before
                row[self.rank] = math.nan
            row["diverged_at"] = self.diverged.get(i)
            if self.stopped_at or not self.complete:
                row["stopped_at"] = self._stopped_at(i)
            if self.best_at:
                row["best_at"] = self.best_at.get(i)
            row["refused"] = self.refused.get(i)
            rows.append(row)
        return rows

    def _stopped_at(self, i: int) -> int | None:
        """The step at which a search, or the end of the sweep, stopped a trial; None for its last step."""
        if i in self.stopped_at or self.complete:
            return self.stopped_at.get(i)
        step = int(self._carries[i].state.step) if i in self._carries else 0
        steps = self.plan.steps if self._specs is None else self._specs[i].intervals.steps
        return step if step < steps else None

    def _setting(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        row = {name: rows[0][name] for name in ("setting", *self.hypers[0])}
        for name in self.curves:
            values = np.asarray([r[name] for r in rows])
            mean = float(np.mean(values))
            half = half_interval(values) if np.isfinite(mean) else math.nan
            row |= {name: mean, f"{name} low": mean - half, f"{name} high": mean + half}
        row["runs"] = len(rows)
        row["diverged"] = sum(r["diverged_at"] is not None for r in rows)
        if "stopped_at" in rows[0]:
            steps = [r["stopped_at"] for r in rows if r["stopped_at"] is not None]
            row |= {"stopped": len(steps), "stopped_at": min(steps, default=None)}
        row["refused"] = next((r["refused"] for r in rows if r["refused"] is not None), None)
        return row


def build_result(engine: Engine, key: Key, seconds: float, *, complete: bool) -> Result:
    """The result of an engine. key: of the sweep. seconds: that it took. complete: whether it ended by itself."""
    states, count = engine.states, len(engine.specs)
    reported: dict[str, set[int]] = {"train": set()}
    names: dict[str, None] = {}  # in the order of the reports
    for state in states.values():
        for name, values in state.metrics.items():
            names[name] = None
            reported.setdefault(name.partition("/")[0], set()).update(values)
    steps = {split: np.asarray(sorted(reported[split]), np.int64) for split in sorted(reported)}
    curves = {}
    for name in names:
        split_steps = steps[name.partition("/")[0]]
        curves[name] = np.full((count, len(split_steps)), np.nan, np.float32)
        for trial, state in states.items():
            values = state.metrics.get(name, {})
            curves[name][trial, np.searchsorted(split_steps, list(values))] = list(values.values())

    diverged, scores, best_at = {}, np.full(count, math.nan), {}
    carries: dict[int, Any] = {m: t.carry for m, t in states.items() if t.carry is not None}
    for trial, state in states.items():
        values = state.metrics.get(engine.rank_of(state), {})
        invalid = [step for step in sorted(values) if not math.isfinite(values[step])]
        if state.diverged and state.carry is not None:
            diverged[trial] = int(state.carry.state.diverged_at)
        elif invalid and invalid[-1] == max(values):  # only on the validation split
            diverged[trial] = invalid[0]
        elif values:
            scores[trial] = values[max(values)]
            if complete and state.best_step is not None and state.best_carry is not None:
                best_at[trial], carries[trial] = state.best_step, state.best_carry
                scores[trial] = values[state.best_step]
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return Result(
        hypers=[spec.settings for spec in engine.specs],
        metric=engine.metric,
        seeds=engine.draws.runs,
        plan=engine.plan(),
        steps=steps,
        curves=curves,
        scores=scores,
        diverged=dict(sorted(diverged.items())),
        refused=dict(sorted(engine.refused.items())),
        stopped_at={m: t.step for m, t in states.items() if t.stop_reason is not None},
        ranks_last={m for m, t in states.items() if t.ranks_last},
        seed=[spec.seed for spec in engine.specs],
        lineage=engine.lineage,
        complete=complete,
        seconds=seconds,
        best_at=best_at,
        _carries=carries,
        _impl=str(jax.random.key_impl(key)) if is_typed else None,
        _specs=list(engine.specs),
    )


def half_interval(values: Sequence[float] | np.ndarray) -> float:
    """Half the 95 % interval of a mean, t * std / sqrt(n), with n - 1 degrees of freedom; NaN for one value.

    values: one per seed.
    """
    from scipy import stats

    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else math.nan


def _last(curve: np.ndarray) -> float:
    """The last value that is not NaN."""
    known = np.flatnonzero(~np.isnan(curve))
    return float(curve[known[-1]]) if known.size else math.nan
