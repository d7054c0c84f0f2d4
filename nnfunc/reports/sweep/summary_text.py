"""What the report of a sweep says in sentences: how much ran, what was best, and how sure that is."""

import math
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.reports.format import format_metric
from nnfunc.reports.sweep.axes import text
from nnfunc.reports.sweep.curves import named
from nnfunc.reports.sweep.importance import ENOUGH, GOOD, Importance
from nnfunc.reports.sweep.report_data import Sheet
from nnfunc.reports.sweep.significance import compare_settings
from nnfunc.sweeps.result import Result

__all__ = ["headline", "score", "trust", "verdict"]

MORE_SEEDS = (
    "One run a setting cannot tell luck from merit: with another key, another setting may have come "
    "first. Run each setting several times, seeds=3 in code or --seeds 3 on the command line, and the "
    "report gives means and intervals."
)
LUCKIEST = "The first of many is also the luckiest of many: expect a little less of it in runs of its own."

NO_IMPORTANCES = (
    "No importances: they need a name that varies, at least five settings with a score, and scores that differ."
)
HOW_IMPORTANT = (
    " A name's importance is how far that R2 falls when the name's values are shuffled, with its "
    "standard deviation over folds and shuffles; names that vary together share theirs."
)


def headline(own: Sheet, result: Result) -> str:
    """How many runs of how many steps, in how long, and what became of them."""
    runs = len(own.hypers)
    steps = max((int(s[-1]) for s in result.steps.values() if len(s)), default=0)
    stopped = result.stopped_at
    upto = "up to " if stopped else ""
    of = f" ({counted(runs // own.seeds, 'setting')}, {own.seeds} seeds each)" if own.seeds > 1 else ""
    ends = [
        f"{_none(len(result.diverged))} diverged",
        f"{_none(len(stopped))} stopped early",
        f"{_none(len(result.refused))} refused",
    ]
    words = f"{counted(runs, 'run')}{of} of {upto}{counted(steps, 'step')} in "
    words += f"{_time(result.seconds)}: {ends[0]}, {ends[1]}, {ends[2]}."
    if not result.complete:
        words += " The sweep was cut off: these are the figures so far."
    if stopped:
        at, counts = np.unique(list(stopped.values()), return_counts=True)
        some = [f"{n:,} at step {s:,}" for s, n in list(zip(at, counts, strict=True))[:8]]
        words += f" The search stopped {', '.join(some)}{' and more later' * (len(at) > 8)}; "
        words += "their scores are from there."
    return words


def verdict(own: Sheet, result: Result) -> list[str]:
    """The best and how sure that is, a paragraph each."""
    if not own.ranked:
        return [_nothing(own, result)]
    first = own.ranked[0][0]
    if own.seeds == 1:
        return [f"{_called(own, first)}: {own.score.name} {score(own, own.scores[first])}.{_shared(own)}", MORE_SEEDS]
    rows = {row["setting"]: row for row in result.table("setting")}
    best = rows[first // own.seeds]
    paragraphs = [f"{_called(own, first)}: {own.score.name} {_mean(own, best)}."]
    if len(own.ranked) < 2:
        others = "There is no other setting" if len(rows) == 1 else "No other setting ran through"
        return [*paragraphs, f"{others} to compare it with."]
    second = own.ranked[1][0]
    other = rows[second // own.seeds]
    paragraphs.append(f"The runner-up is {_who(own, second)}: {_mean(own, other)}. {_compared(own, result)}")
    return [*paragraphs, LUCKIEST] if len(own.ranked) > 4 else paragraphs


def trust(found: Importance | None, own: Sheet) -> str:
    """How far the importances can be trusted."""
    if found is None:
        return NO_IMPORTANCES
    words = f"A random forest of {counted(found.settings, 'setting')} explains "
    words += f"{max(found.r2, 0):.0%} of the variance of the scores of settings that it has not seen "
    words += f"(cross-validated R2 {found.r2:.2f})."
    left = len(own.hypers) // own.seeds - found.settings
    if left:
        words += f" {counted(left, 'setting')} without a score {'are' if left > 1 else 'is'} left out."
    if own.short.any():
        words += " Scores of what the search gave up are from fewer steps than the others."
    if found.settings < ENOUGH:
        words += f" Fewer than {ENOUGH} settings are too few for the importances to mean anything."
    elif found.r2 < GOOD:
        words += f" Below {GOOD} that is too low for the importances to mean anything."
    else:
        words += HOW_IMPORTANT
    return words


def score(own: Sheet, value: float) -> str:
    """A score as people write it, a dash where there is none."""
    return format_metric(own.rank.partition("/")[2], value) if math.isfinite(value) else "-"


def _none(number: int) -> str:
    return f"{number:,}" if number else "none"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def _who(own: Sheet, trial: int) -> str:
    place = f"setting {trial // own.seeds}" if own.seeds > 1 else f"trial {trial}"
    words = named(own, trial)
    return f"{place} ({words})" if words else place


def _called(own: Sheet, trial: int) -> str:
    return f"The best is {_who(own, trial)}"


def _shared(own: Sheet) -> str:
    """Whether others have the very score of the best."""
    same = sum(own.scores[m[0]] == own.scores[own.ranked[0][0]] for m in own.ranked) - 1
    return f" {counted(same, 'other run')} scored the same." if same else ""


def _mean(own: Sheet, row: dict[str, Any]) -> str:
    mean, low, high = (score(own, row[f"{own.rank}{end}"]) for end in ("", " low", " high"))
    return f"{mean} on average over {own.seeds} seeds, 95 % interval {low} to {high}"


def _compared(own: Sheet, result: Result) -> str:
    """Whether the seeds tell the best setting from the runner-up, and by which test."""
    (one, other) = own.ranked[:2]
    seeds = [[result.seed[trial] for trial in trials] for trials in (one, other)]
    found = compare_settings(own.scores[one], own.scores[other], *seeds)
    test = f"{found.test}: p = {found.p:.2g}"
    if found.differ:
        return f"The best is ahead by more than chance would have it ({test})."
    return f"These seeds do not say which of the two is better ({test}); more seeds would."


def _nothing(own: Sheet, result: Result) -> str:
    if own.seeds > 1 and np.isfinite(own.scores).any():
        return "There is no best: of every setting at least one run diverged."
    if len(result.refused) == len(own.hypers):
        return "There is no best: all settings were refused."
    fixed = [f"{name}={text(value)}" for name, value in own.fixed.items()][:6]
    common = f" What they have in common: {', '.join(fixed)}." if fixed else ""
    return f"There is no best: no run ended with a score.{common}"
