"""The sentences of a sweep's report: how much ran, what was best, and how certain that is."""

import math
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.durations import format_duration
from nnfunc.reports.format import format_metric
from nnfunc.reports.sweep.axes import format_value
from nnfunc.reports.sweep.importance import ENOUGH_SETTINGS, GOOD_R2, Importance
from nnfunc.reports.sweep.report_data import SweepData
from nnfunc.reports.sweep.significance import compare_settings
from nnfunc.sweeps.result import Result

MORE_SEEDS = (
    "One run of each setting cannot tell skill from luck: with another seed, another setting may come first. "
    "Run each setting several times, with seeds=3 in code or --seeds 3 on the command line, and the report "
    "gives means and intervals."
)
SELECTION_BIAS = "The best of many settings was also lucky: expect a slightly worse score in new runs."

NO_IMPORTANCE = (
    "No importances: they need a hyperparameter that varies, at least five settings with a score, and scores "
    "that differ."
)
HOW_TO_READ = (
    " The importance of a hyperparameter is the drop in R2 when its values are shuffled, as a share of all drops, "
    "with the standard deviation over folds and shuffles. Hyperparameters that vary together share their importance."
)


def headline(data: SweepData, result: Result) -> str:
    """How many runs of how many steps, in what time, and how they ended. data: of the result."""
    steps = max((int(steps[-1]) for steps in result.steps.values() if len(steps)), default=0)
    stopped_at = result.stopped_at
    up_to = "up to " if stopped_at else ""
    settings = f" ({counted(data.settings, 'setting')}, {data.seeds} seeds each)" if data.seeds > 1 else ""
    text = f"{counted(len(data.hypers), 'run')}{settings} of {up_to}{counted(steps, 'step')} in "
    text += f"{format_duration(result.seconds)}: {_count_or_none(len(result.diverged))} diverged, "
    text += f"{_count_or_none(len(stopped_at))} stopped early, {_count_or_none(len(result.refused))} refused."
    if not result.complete:
        text += " The sweep was interrupted: these are the results so far."
    if stopped_at:
        counts = list(zip(*np.unique(list(stopped_at.values()), return_counts=True), strict=True))
        listed = ", ".join(f"{count:,} at step {step:,}" for step, count in counts[:8])
        text += f" The search stopped {listed}{' and more later' * (len(counts) > 8)}; their scores are from there."
    return text


def describe_best(data: SweepData, result: Result) -> list[str]:
    """The best setting and how certain it is, one paragraph each. data: of the result."""
    if not data.ranked:
        return [_explain_no_best(data, result)]
    first = data.ranked[0][0]
    best = f"The best is {_name(data, first)}: {data.score_axis.name}"
    if data.seeds == 1:
        ties = sum(data.scores[trials[0]] == data.scores[first] for trials in data.ranked) - 1
        tied = f" {counted(ties, 'other run')} scored the same." if ties else ""
        return [f"{best} {format_score(data, data.scores[first])}.{tied}", MORE_SEEDS]
    rows = {row["setting"]: row for row in result.table("setting")}
    paragraphs = [f"{best} {_format_mean(data, rows[first // data.seeds])}."]
    if len(data.ranked) < 2:
        others = "There is no other setting" if len(rows) == 1 else "No other setting finished"
        return [*paragraphs, f"{others} to compare it with."]
    second = data.ranked[1][0]
    runner_up = f"The runner-up is {_name(data, second)}: {_format_mean(data, rows[second // data.seeds])}."
    paragraphs.append(f"{runner_up} {_compare_best_two(data, result)}")
    return [*paragraphs, SELECTION_BIAS] if len(data.ranked) > 4 else paragraphs


def describe_importance(importance: Importance | None, data: SweepData) -> str:
    """How far the importance of hyperparameters can be trusted. data: of the same sweep."""
    if importance is None:
        return NO_IMPORTANCE
    text = f"A random forest fitted to {counted(importance.settings, 'setting')} explains "
    text += f"{max(importance.r2, 0):.0%} of the variance of held-out scores "
    text += f"(cross-validated R2 {importance.r2:.2f})."
    without = data.settings - importance.settings
    if without:
        text += f" {counted(without, 'setting')} without a score {'are' if without > 1 else 'is'} left out."
    if data.ranks_last.any():
        text += " Scores of runs that the search stopped are from fewer steps than the others."
    if importance.settings < ENOUGH_SETTINGS:
        return f"{text} Fewer than {ENOUGH_SETTINGS} settings are too few for meaningful importances."
    if importance.r2 < GOOD_R2:
        return f"{text} An R2 below {GOOD_R2} is too low for meaningful importances."
    return text + HOW_TO_READ


def format_score(data: SweepData, value: float) -> str:
    """A score, the value of the metric that ranks data, as text; a dash where it is NaN."""
    return format_metric(data.rank.partition("/")[2], value) if math.isfinite(value) else "-"


def _count_or_none(count: int) -> str:
    return f"{count:,}" if count else "none"


def _name(data: SweepData, trial: int) -> str:
    name = f"setting {trial // data.seeds}" if data.seeds > 1 else f"trial {trial}"
    values = data.describe(trial)
    return f"{name} ({values})" if values else name


def _format_mean(data: SweepData, row: dict[str, Any]) -> str:
    mean, low, high = (format_score(data, row[f"{data.rank}{end}"]) for end in ("", " low", " high"))
    return f"{mean} on average over {data.seeds} seeds, 95 % interval {low} to {high}"


def _compare_best_two(data: SweepData, result: Result) -> str:
    """Whether the difference between the two best settings is significant, and by which test."""
    a, b = data.ranked[:2]
    seeds = [[result.seed[trial] for trial in trials] for trials in (a, b)]
    comparison = compare_settings(data.scores[a], data.scores[b], *seeds)
    test = f"{comparison.test}: p = {comparison.p:.2g}"
    if comparison.is_significant:
        return f"The best is ahead by more than chance explains ({test})."
    return f"These seeds do not show which of the two is better ({test}); more seeds may."


def _explain_no_best(data: SweepData, result: Result) -> str:
    if data.seeds > 1 and np.isfinite(data.scores).any():
        return "There is no best setting: at least one run of every setting diverged."
    if len(result.refused) == len(data.hypers):
        return "There is no best setting: all were refused."
    fixed = [f"{name}={format_value(value)}" for name, value in data.fixed.items()][:6]
    common = f" All runs have {', '.join(fixed)}." if fixed else ""
    return f"There is no best setting: no run ended with a score.{common}"
