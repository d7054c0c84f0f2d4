"""What the words, tables and pictures of a report are made of: a sweep as axes, scores and ranks."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.sweep.axes import Axis, places_of, score_axis
from nnfunc.runs.status import flat
from nnfunc.sweeps.result import Result

__all__ = ["Sheet", "sheet"]


class Sheet(NamedTuple):
    """A sweep, trial by trial.

    hypers: by dotted name. axes: of the names that vary, places [trials]. fixed: what all are given.
    rank: the curve that ranks, such as "validation/accuracy". score: its axis, [trials]. scores:
    [trials], not a number for those that diverged or were refused; of one that a search stopped, the
    last one it had. ranked: the trials of each setting that has a score, best first. mode: "min" or
    "max". diverged, stopped: [trials] of bool; short: [trials], those that a search gave up, whose
    scores are from fewer steps than those of others.
    """

    hypers: list[dict[str, Any]]
    axes: list[Axis]
    fixed: dict[str, Any]
    rank: str
    score: Axis
    scores: np.ndarray
    ranked: list[list[int]]
    seeds: int
    mode: str
    diverged: np.ndarray
    stopped: np.ndarray
    short: np.ndarray

    def means(self) -> np.ndarray:
        """[settings]: the mean score of the runs that have one, not a number where none has."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings without a score
            return np.nanmean(self.scores.reshape(-1, self.seeds), axis=1)


def sheet(result: Result) -> Sheet:
    """The sheet of a sweep that has run."""
    hypers = [flat(own) for own in result.hypers]
    axes = places_of(hypers)
    varied = {one.name for one in axes}
    validation = f"validation/{result.metric.metric}"
    rank = validation if validation in result.curves else f"train/{result.metric.metric}"
    stopped = result.stopped_at
    scores = _scores(result, rank, stopped)
    place = "setting" if result.seeds > 1 else "trial"
    first = [row[place] * result.seeds for row in result.table() if np.isfinite(row[rank])]
    return Sheet(
        hypers,
        axes,
        {name: value for name, value in hypers[0].items() if name not in varied},
        rank,
        score_axis(rank.replace("/", " ").replace("_", " "), scores, result.metric.mode),
        scores,
        [list(range(at, at + result.seeds)) for at in first],
        result.seeds,
        result.metric.mode,
        _marked(result.diverged, len(hypers)),
        _marked(stopped, len(hypers)),
        _marked(dict.fromkeys(result.ranks_last), len(hypers)),
    )


def _scores(result: Result, rank: str, stopped: dict[int, int]) -> np.ndarray:
    scores = np.where(np.isfinite(result.scores), result.scores, np.nan).astype(np.float64)
    for trial in set(stopped) - set(result.diverged):
        known = result.curves[rank][trial] if rank in result.curves else np.zeros(0)
        known = known[np.isfinite(known)]
        if np.isnan(scores[trial]) and len(known):
            scores[trial] = known[-1]
    return scores


def _marked(trials: dict[int, Any], count: int) -> np.ndarray:
    marked = np.zeros(count, bool)
    marked[list(trials)] = True
    return marked
