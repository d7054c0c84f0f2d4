"""What is written when a sweep has come to its end, and what is said of it in the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nnfunc.check import counted
from nnfunc.config.sweep.sweep_config import Study
from nnfunc.reports.format import format_labelled, format_metric, format_settings, sort_metrics
from nnfunc.reports.sweep.sweep_page import write_page
from nnfunc.runs import run_folder
from nnfunc.sweeps.result import Result
from nnfunc.training.evaluate import eval_size, evaluate
from nnfunc.training.task import built

__all__ = ["finish", "no_best"]


def finish(own: Study, result: Result, folder: Path) -> None:
    """The tables, the report, and a few lines in the terminal."""
    result.find_layers()
    result.save(folder)
    base = {k: v for k, v in own.sweep.tables.items() if isinstance(v, dict)}
    write_page(result, folder, folder.name, _flat(base))
    which = result.best
    best = {} if which is None else result.hypers[which]
    found = {
        "complete": True,
        "runs": len(result.hypers),
        "seeds": result.seeds,
        "search": own.search_name,
        "best": which,
        "settings": best,
        "seed": None if which is None else result.seed[which],
        "figure": own.figure.metric,
        "score": None if which is None else float(result.scores[which]),
        "mean": None if which is None else float(result.table()[0][result.rank]),
        "seconds": round(result.seconds, 2),
        "diverged": len(result.diverged),
    }
    test = {} if which is None else _test(own, result, which)
    found |= {"test": test} if test else {}
    run_folder.write_json(folder / "result.json", found)
    words = f"{counted(len(result.hypers), 'run')} in {found['seconds']:.1f} s"
    ends = {"diverged": result.diverged, "ended early": result.stopped, "refused": result.refused}
    words += "".join(f", {len(members)} {what}" for what, members in ends.items() if members)
    print(words)
    if which is None:
        print(f"best    {no_best(result.seeds)}")
    else:
        print(f"best    {_how_sure(own, result, which)}  {format_settings(best)}".rstrip())
    if test:
        figures = "  ".join(format_labelled(name, value) for name, value in sort_metrics(test))
        runs = f" (mean of {result.seeds} seeds)" if result.seeds > 1 else ""
        print(f"test    {figures}{runs}")
    print(f"table   {folder / 'table.csv'}")
    print(f"report  {folder / 'report.html'}")
    if which is not None:
        print(f"config  {run_folder.command()} sweep-best {folder}")


def no_best(seeds: int) -> str:
    """Why no member is the best."""
    if seeds > 1:
        return "there is none: of every setting a run ended without a finite figure"
    return "there is none: no member ended with a finite figure"


def _how_sure(own: Study, result: Result, which: int) -> str:
    """The figure that ranks: of one run, or the mean over seeds with its 95 % interval."""
    name, label = result.rank, own.figure.metric
    if result.seeds == 1:
        return f"{format_labelled(label, float(result.scores[which]))} (member {which})"
    row = result.table()[0]
    low, high = (format_metric(label, row[f"{name} {end}"]) for end in ("low", "high"))
    return f"{format_labelled(label, row[name])} ({low} to {high}, 95 % over {result.seeds} seeds)"


def _test(own: Study, result: Result, which: int) -> dict[str, float]:
    """The figures of the best setting on the test split, which nothing was chosen by."""
    every = []
    for i in range(which, which + result.seeds):
        trial, state = result.trial(i), result.member(i).state
        arrays = trial.data.test
        if arrays is None or state is None or i in result.diverged:
            continue
        task = built(trial.build, trial.hypers, jnp.asarray(state.step))
        size = eval_size(trial.data, task.accumulate)
        own_data = {"transform": trial.data.transform, "batch_size": size}
        every.append(evaluate(task, state, arrays, **own_data))
    return {n: float(np.mean([own[n] for own in every])) for n in every[0]} if every else {}


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{table}.{k}": v for table, own in tables.items() for k, v in own.items()}
