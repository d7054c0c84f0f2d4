"""Runs a comparison: one training after another, each kept as soon as it is done."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check, documents
from nnfunc.commands import interrupts
from nnfunc.commands.compare import comparison_page, comparison_plots, comparison_table
from nnfunc.commands.compare.comparison_plan import Plan, Run, load
from nnfunc.commands.run_training import fit_config
from nnfunc.config import restore
from nnfunc.config.data_records import DataRecords
from nnfunc.config.restore import save_base, save_run
from nnfunc.reports.format import format_labelled, sort_metrics
from nnfunc.runs import run_folder
from nnfunc.training.checkpointing import Best
from nnfunc.training.evaluate import eval_size, evaluate
from nnfunc.training.train import History

__all__ = ["compare"]

RESULT = {
    "model": str,
    "variant": str,
    "seed": int,
    "test": {str: float},
    "best_step": int,
    "seconds": float,
    "seconds_per_step": float,
    "curve": {str: [float]},
    "steps_to_target?": (float, None),
    "seconds_to_target?": (float, None),
}
"""What the result.json of one run holds; see `documents`."""


def compare(
    file: Path, settings: list[str] | None = None, folder: Path | None = None, *, changed_data: bool = False
) -> Path:
    """Train what a file compares, write tables and plots to a folder, and return the folder.

    A folder that holds the same comparison, stopped half-way, is gone on with: runs that are
    complete are not trained again. changed_data: go on where the data files are not what they were.
    Raises: ConfigError; FileExistsError when the folder holds something else.
    """
    with interrupts.interrupt_message("stopped before the first run; nothing was written"):
        plan = load(file, settings, folder, changed_data=changed_data)
    folder = _folder(file.stem, plan, folder)
    print(comparison_table.sizes(plan), flush=True)
    with interrupts.interrupt_message(f"stopped; the runs that are complete are kept. {_go_on(folder)}"):
        return _runs(plan, folder)


def _go_on(folder: Path) -> str:
    return f"Resume with the same command and --run {folder}"


def _runs(plan: Plan, folder: Path) -> Path:
    """The runs that are not complete yet, then the tables and plots of all."""
    width = max(len(run.name) for run in plan.runs)
    for place, run in enumerate(plan.runs, start=1):
        if not (folder / "runs" / run.name / "result.json").exists():
            result = _train(run, folder / "runs" / run.name, plan, folder)
            figures = "  ".join(format_labelled(name, value) for name, value in sort_metrics(result["test"]))
            done = f"{place:3d} of {len(plan.runs)}  {run.name:<{width}}"
            print(f"{done}  test {figures}  ({result['seconds']:.0f} s)", flush=True)
    results = [_result(folder / "runs" / run.name / "result.json", run) for run in plan.runs]
    _alike(folder, plan, results)
    rows = comparison_table.summarize(plan, results)
    comparison_table.write(folder, plan, results, rows)
    comparison_plots.results(folder / "results.png", plan, results)
    comparison_plots.curves(folder / "curves.png", plan, results)
    print(comparison_table.shown(plan, rows, comparison_table.metric_of(results)))
    comparison_page.write(folder, plan, results, rows)
    print(f"tables and plots  {folder}")
    print(f"report  {folder / 'report.html'}")
    return folder


def _result(file: Path, run: Run) -> dict[str, Any]:
    """The result of a run, which is that of this run. Raises: ValueError."""
    result = run_folder.read_json(file, RESULT)
    actual = [result[name] for name in ("model", "variant", "seed")]
    if actual != [run.model, run.variant, run.seed]:
        hint = "It was edited. Remove that folder to train it again."
        check.fail(str(file), f"it should be of {run.name}, got {actual}. {hint}")
    return result


def _alike(folder: Path, plan: Plan, results: list[dict[str, Any]]) -> None:
    """All results have the same metrics and curves. Raises: ValueError naming one that has not."""
    for run, result in zip(plan.runs, results, strict=True):
        lengths = {len(column) for column in result["curve"].values()}
        if any(set(result[name]) != set(results[0][name]) for name in ("test", "curve")) or (
            "step" not in result["curve"] or lengths == {0} or len(lengths) > 1
        ):
            hint = "It was edited. Remove that folder to train it again."
            problem = f"it should have the metrics of {plan.runs[0].name}, and does not. {hint}"
            check.fail(str(folder / "runs" / run.name / "result.json"), problem)


def _folder(name: str, plan: Plan, folder: Path | None) -> Path:
    """The folder to write to: a new one, or the one of the same comparison."""
    import tomli_w

    tables = tomli_w.dumps(plan.tables)
    if folder is not None and (folder / "compare.toml").is_file():
        problem = documents.leading_out(folder)
        if problem:
            check.fail(str(folder), f"{problem}. Put what it should be in its place.")
        if documents.content(folder / "compare.toml") != tables.encode():
            cure = "Choose another with --run."
            raise FileExistsError(f"{folder} holds a comparison with other settings. {cure}")
        return folder
    folder = run_folder.create(name, folder)
    records = DataRecords(folder, per_data_set=True)
    for run in plan.runs:
        _, data, values = run.config.part("data")
        records.save(data, values, run.config.preprocessing)
        save_base(run.config, records)
    (folder / "compare.toml").write_bytes(tables.encode())
    run_folder.write_environment(folder)
    return folder


def _train(run: Run, folder: Path, plan: Plan, whole: Path) -> dict[str, Any]:
    """One run: the best checkpoint's figures on the test examples, and the curves on the way."""
    config, data = run.config, run.config.data()
    going_on = (folder / "config.toml").exists()
    if not going_on:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_run(config, folder)
    training = fit_config(config, folder, resume=going_on, lines=False)
    state, history, caught, seconds = training.state, training.history, training.signals, training.seconds
    if int(state.step) < config.train["steps"]:
        problem = f"stopped in {run.name}; what is done is kept. {_go_on(whole)}"
        raise interrupts.Stopped(caught[0], problem)
    best, step = restore.restore(config, folder, "best")
    arrays = config.test()
    if arrays is None:
        check.fail("compare", f"the data of {run.model} should have a test split, but has none.")
    task = restore.rebuild_task(config, best)
    figures = evaluate(
        task,
        best.params,
        arrays,
        state=best.model_state,
        transform=data.transform,
        batch_size=eval_size(data, task.accumulate),
    )
    result: dict[str, Any] = {"model": run.model, "variant": run.variant, "seed": run.seed}
    result |= {"test": figures, "best_step": step, "seconds": round(seconds, 2)}
    result |= _pace(history, plan.target, Best.of(config.train["best"]))
    result["curve"] = {name: column.tolist() for name, column in history.validation.items()}
    run_folder.write_json(folder / "result.json", result)
    return result


def _pace(history: History, target: tuple[str, float] | None, best: Best) -> dict[str, Any]:
    """How long a step takes, and after how many the target was reached, None if never.

    The time of a step is the median over the intervals of the log, so that neither compilation nor
    evaluation counts.
    """
    steps, seconds = history.train["step"], history.train["seconds"]
    if len(steps) < 2:
        check.fail("compare", "train.log_every should leave at least two intervals a run.")
    per_step = float(np.median(np.diff(seconds) / np.diff(steps)))
    result: dict[str, Any] = {"seconds_per_step": per_step}
    if target is None:
        return result
    metric, value = target
    if metric not in history.validation:
        known = check.nearest(metric, [*history.validation])
        check.fail("compare", f"target should name a validation figure, got {metric!r}{known}")
    column = history.validation[metric]
    sinks = metric in ("loss", "mae") or (metric == best.metric and best.mode == "min")
    there = np.flatnonzero(column <= value if sinks else column >= value)
    reached = int(history.validation["step"][there[0]]) if len(there) else None
    result["steps_to_target"] = reached
    result["seconds_to_target"] = None if reached is None else reached * per_step
    return result
