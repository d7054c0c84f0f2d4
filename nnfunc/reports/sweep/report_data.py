"""What the words, tables and pictures of a report are made of: a sweep as axes, scores and ranks."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.sweep.axes import Axis, places_of, score_axis
from nnfunc.runs.status import flatten_settings
from nnfunc.sweeps.result import Result

__all__ = ["Sheet", "sheet"]


class Sheet(NamedTuple):
    """A sweep, member by member.

    hypers: by dotted name. axes: of the names that vary, places [members]. fixed: what all are given.
    rank: the curve that ranks, such as "validation/accuracy". score: its axis, [members]. scores:
    [members], not a number for those that diverged or were refused; of one that a search stopped, the
    last one it had. ranked: the members of each setting that has a score, best first. mode: "min" or
    "max". diverged, stopped: [members] of bool; short: [members], those that a search gave up, whose
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
    hypers = [flatten_settings(own) for own in result.hypers]
    axes = places_of(hypers)
    varied = {one.name for one in axes}
    validation = f"validation/{result.figure.metric}"
    rank = validation if validation in result.curves else f"train/{result.figure.metric}"
    stopped = result.stopped
    scores = _scores(result, rank, stopped)
    place = "setting" if result.seeds > 1 else "member"
    first = [row[place] * result.seeds for row in result.table() if np.isfinite(row[rank])]
    return Sheet(
        hypers,
        axes,
        {name: value for name, value in hypers[0].items() if name not in varied},
        rank,
        score_axis(rank.replace("/", " ").replace("_", " "), scores, result.figure.mode),
        scores,
        [list(range(at, at + result.seeds)) for at in first],
        result.seeds,
        result.figure.mode,
        _marked(result.diverged, len(hypers)),
        _marked(stopped, len(hypers)),
        _marked(dict.fromkeys(result.behind), len(hypers)),
    )


def _scores(result: Result, rank: str, stopped: dict[int, int]) -> np.ndarray:
    scores = np.where(np.isfinite(result.scores), result.scores, np.nan).astype(np.float64)
    for member in set(stopped) - set(result.diverged):
        known = result.curves[rank][member] if rank in result.curves else np.zeros(0)
        known = known[np.isfinite(known)]
        if np.isnan(scores[member]) and len(known):
            scores[member] = known[-1]
    return scores


def _marked(members: dict[int, Any], count: int) -> np.ndarray:
    marked = np.zeros(count, bool)
    marked[list(members)] = True
    return marked
