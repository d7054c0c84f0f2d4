"""The data behind the text, tables and plots of a sweep's report: axes, scores and ranks."""

import warnings
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.sweep.axes import Axis, build_axes, build_score_axis, format_value
from nnfunc.runs.status import flatten_settings
from nnfunc.sweeps.result import Result


class SweepData(NamedTuple):
    """A sweep as arrays over its trials.

    hypers: by dotted name.
    axes: of the hyperparameters that vary.
    fixed: the values that all trials have.
    rank: the curve that ranks, such as "validation/accuracy".
    score_axis: its axis.
    scores: [trials], NaN for diverged and refused trials; of a trial that a search stopped, the last one.
    ranked: the trials of each setting that has a score, best first.
    seeds: trials a setting.
    mode: "min" or "max".
    diverged, stopped: [trials] of bool.
    ranks_last: [trials] of bool, those that a search stopped for good, whose scores are from fewer steps than the
        others.
    names: of the trials, where they are not those of one sweep.
    """

    hypers: list[dict[str, Any]]
    axes: list[Axis]
    fixed: dict[str, Any]
    rank: str
    score_axis: Axis
    scores: np.ndarray
    ranked: list[list[int]]
    seeds: int
    mode: str
    diverged: np.ndarray
    stopped: np.ndarray
    ranks_last: np.ndarray
    names: list[str] | None = None

    @property
    def settings(self) -> int:
        """How many settings the sweep has."""
        return len(self.hypers) // self.seeds

    def mean_scores(self) -> np.ndarray:
        """[settings]: the mean score of the trials that have one, NaN where none has."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings without a score
            return np.nanmean(self.scores.reshape(-1, self.seeds), axis=1)  # [settings, seeds]

    def trial_ranks(self) -> np.ndarray:
        """[trials]: 1 for the best setting, 2 for the next; NaN without a score."""
        ranks = np.full(len(self.hypers), np.nan)
        for rank, trials in enumerate(self.ranked, start=1):
            ranks[trials] = rank
        worst = len(self.ranked) + 1
        return np.where(np.isnan(ranks) & np.isfinite(self.scores), worst, ranks)

    def link(self, trial: int) -> str:
        """What the charts and the table of a page link a trial by: its name, or the number of its setting."""
        return self.names[trial] if self.names else str(trial // self.seeds)

    def tell(self, trial: int) -> str:
        """A trial in one line: its number, score and values."""
        score = self.scores[trial]
        outcome = (
            f"{self.score_axis.name} {score:.5g}" if np.isfinite(score) else "diverged" * bool(self.diverged[trial])
        )
        stopped = " (stopped early)" if self.stopped[trial] and np.isfinite(score) else ""
        name = self.names[trial] if self.names else trial
        return f"{name}: {outcome or 'no score'}{stopped}, {self.describe(trial)}"

    def describe(self, trial: int) -> str:
        """The values of a trial that vary, or all its values where none does, as lr=0.1, depth=2."""
        names = [axis.name for axis in self.axes] or list(self.fixed)
        return ", ".join(f"{name}={format_value(self.hypers[trial].get(name), 24, 4)}" for name in names)


def build_sweep_data(result: Result, log: Collection[str] = ()) -> SweepData:
    """The data of the result of a sweep. log: the names whose space is logarithmic."""
    hypers = [flatten_settings(trial_hypers) for trial_hypers in result.hypers]
    axes = build_axes(hypers, log)
    varied = {axis.name for axis in axes}
    rank, mode, count = result.rank, result.metric.mode, len(hypers)
    scores = np.where(np.isfinite(result.scores), result.scores, np.nan).astype(np.float64)
    for trial in set(result.stopped_at) - set(result.diverged) if rank in result.curves else ():
        curve = result.curves[rank][trial]
        curve = curve[np.isfinite(curve)]
        if np.isnan(scores[trial]) and len(curve):
            scores[trial] = curve[-1]
    index = "setting" if result.seeds > 1 else "trial"
    first = [row[index] * result.seeds for row in result.table() if np.isfinite(row[rank])]
    return SweepData(
        hypers,
        axes,
        {name: value for name, value in hypers[0].items() if name not in varied},
        rank,
        build_score_axis(rank.replace("/", " ").replace("_", " "), scores, mode),
        scores,
        [list(range(trial, trial + result.seeds)) for trial in first],
        result.seeds,
        mode,
        _mask(result.diverged, count),
        _mask(result.stopped_at, count),
        _mask(result.ranks_last, count),
    )


def _mask(trials: Iterable[int], count: int) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[list(trials)] = True
    return mask
