"""The results of a complete sweep: files, report and the lines in the terminal."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nnfunc.check import counted
from nnfunc.commands.terminal import metrics_line, print_lines
from nnfunc.config.held_out_rows import at_threshold, threshold_metric, threshold_names
from nnfunc.config.sweep.study import Study
from nnfunc.durations import format_duration
from nnfunc.evaluation import bootstrap, compute_metrics, metric_names
from nnfunc.reports.format import format_labelled, format_metric, format_settings
from nnfunc.reports.sweep.sweep_page import Interval, write_page
from nnfunc.runs import run_folder
from nnfunc.sweeps.result import Result, half_interval
from nnfunc.training.evaluate import eval_batch_size, evaluate
from nnfunc.training.task import build_task
from nnfunc.training.train_state import eval_params

BOOTSTRAP = "The interval is of 1,000 bootstrap resamples of the test examples: it does not cover other seeds."
SEEDS = "The interval is Student's over {} seeds."


def write_results(study: Study, result: Result, folder: Path) -> None:
    """Write the tables, the report and result.json, and print the summary.

    study: the sweep.
    result: of its trials.
    folder: of the sweep.
    """
    result.find_layers()
    result.save(folder)
    tables = {name: table for name, table in study.sweep.tables.items() if isinstance(table, dict)}
    base = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    best = result.best
    test = {} if best is None else _test_metrics(study, result, best)
    log = [name for name, values in study.sweep.space.items() if getattr(values, "log", False)]
    interval = BOOTSTRAP if result.seeds == 1 else SEEDS.format(result.seeds)
    write_page(result, folder, folder.name, base, log=log, test=test, interval=interval)
    settings = {} if best is None else result.hypers[best]
    summary: dict[str, Any] = {
        "complete": True,
        "runs": len(result.hypers),
        "seeds": result.seeds,
        "search": study.search_name,
        "best": best,
        "settings": settings,
        "seed": None if best is None else result.seed[best],
        "metric": study.metric.name,
        "score": None if best is None else float(result.scores[best]),
        "mean": None if best is None else float(result.table()[0][result.rank]),
        "seconds": round(result.seconds, 2),
        "diverged": len(result.diverged),
    }
    if test:
        summary["test"] = {name: value for name, (value, _, _) in test.items()}
        summary["test_interval"] = {name: ends for name, (_, *ends) in test.items() if np.isfinite(ends).all()}
    run_folder.write_json(folder / "result.json", summary)
    line = f"{counted(len(result.hypers), 'run')} in {format_duration(summary['seconds'])}"
    outcomes = {"diverged": result.diverged, "stopped early": result.stopped_at, "refused": result.refused}
    print(line + "".join(f", {len(trials)} {outcome}" for outcome, trials in outcomes.items() if trials))
    if best is None:
        print_lines(f"best    none: {no_best_reason(result.seeds)}")
    else:
        print_lines(f"best    {_score_text(study, result, best)}  {format_settings(settings)}".rstrip())
    if test:
        seeds = f" (mean of {result.seeds} seeds)" if result.seeds > 1 else ""
        print_lines(f"test    {metrics_line(summary['test'])}{seeds}")
    print(f"table   {folder / 'table.csv'}")
    print(f"report  {folder / 'report.html'}")
    if best is not None:
        print(f"config  {run_folder.program_name()} sweep-best {folder}")


def no_best_reason(seeds: int) -> str:
    """Why no trial is the best. seeds: per setting."""
    if seeds > 1:
        return "every setting has a trial without a finite metric"
    return "no trial has a finite metric"


def _score_text(study: Study, result: Result, best: int) -> str:
    """The score of the best trial, or the mean over seeds with its 95 % interval."""
    name, metric = result.rank, study.metric.name
    if result.seeds == 1:
        return f"{format_labelled(metric, float(result.scores[best]))} (trial {best})"
    row = result.table()[0]
    low, high = (format_metric(metric, row[f"{name} {end}"]) for end in ("low", "high"))
    return f"{format_labelled(metric, row[name])} ({low} to {high}, 95 % over {result.seeds} seeds)"


def _test_metrics(study: Study, result: Result, best: int) -> dict[str, Interval]:
    """The best setting's test metrics, which chose nothing: means over the seeds, and 95 % intervals.

    The intervals are Student's over the seeds, or of a bootstrap over the examples for a single run; NaN where there is
    none, as of the loss of a single run.
    """
    metrics, intervals = [], {}
    for i in range(best, best + result.seeds):
        spec, state = result.spec(i), result.trial(i).state
        arrays = spec.data.test
        if arrays is None or state is None or i in result.diverged:
            continue
        task = build_task(spec.build, spec.hypers, jnp.asarray(state.step))
        size = eval_batch_size(spec.data, task.accumulate)
        metrics.append(evaluate(task, state, arrays, transform=spec.data.transform, batch_size=size))
        output_type = getattr(task.objective, "output_type", "")
        names = [name for name in metrics[0] if output_type != "tokens" and name in metric_names(output_type)]
        config = study.config(result.hypers[i], result.seed[i])
        if names and (threshold_metric(config, spec.data) is not None or result.seeds == 1):
            held_out, threshold = at_threshold(config, spec.data, "test", task, *eval_params(task, state))
            if threshold is not None:
                metrics[-1] |= compute_metrics(
                    held_out, [name for name in threshold_names(config) if name in metrics[-1]]
                )
            if result.seeds == 1:
                intervals = bootstrap(held_out, names)
    test = {}
    for name in metrics[0] if metrics else ():
        values = np.asarray([m[name] for m in metrics], np.float64)
        if len(values) > 1:
            half = half_interval(values)
            intervals[name] = (values.mean() - half, values.mean() + half)
        test[name] = (float(values.mean()), *map(float, intervals.get(name, (np.nan, np.nan))))
    return test
