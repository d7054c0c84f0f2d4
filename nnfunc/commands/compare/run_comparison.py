"""The command `nnfunc compare`: trains the runs of a plan one after another, and resumes where it stopped."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check, documents, tuning
from nnfunc.commands import interrupts
from nnfunc.commands.compare import comparison_table
from nnfunc.commands.compare.comparison_page import write_page
from nnfunc.commands.compare.comparison_plan import ComparisonPlan, PlannedRun, load_plan
from nnfunc.commands.evaluate_run import split_metrics
from nnfunc.commands.run_training import fit_config
from nnfunc.commands.terminal import metrics_line
from nnfunc.config import restore
from nnfunc.config.config_errors import nearest_hint
from nnfunc.config.data_records import DataRecords
from nnfunc.config.restore import save_base, save_run
from nnfunc.durations import format_duration
from nnfunc.runs import run_folder
from nnfunc.runs.best_metric import BestMetric
from nnfunc.training.checkpointing import saved_forms
from nnfunc.training.train_run import History

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
"""The schema of the result.json of one run; see `documents`."""


def compare(
    file: Path, settings: list[str] | None = None, folder: Path | None = None, *, changed_data: bool = False
) -> Path:
    """Train the runs of a comparison, write tables and plots, and return the folder.

    file: a TOML file.
    settings: its overrides.
    folder: a new one, by default the next of runs/NAME-1; or that of the same comparison, whose complete runs are
        not trained again.
    changed_data: accept data files that changed since the comparison began.
    Raises: ConfigError; FileExistsError when the folder has other content; `Stopped` by a signal.
    """
    with interrupts.interrupt_message("stopped before the first run; nothing was written"):
        plan = load_plan(file, settings, folder, changed_data=changed_data)
    folder = _open_folder(file.stem, plan, folder)
    print(comparison_table.size_lines(plan), flush=True)
    hint = f"Resume with the same command and --run {folder}"
    with interrupts.interrupt_message(f"stopped; the complete runs are kept. {hint}"):
        width = max(len(run.name) for run in plan.runs)
        for number, run in enumerate(plan.runs, start=1):
            if not (folder / "runs" / run.name / "result.json").exists():
                result = _train_run(run, folder / "runs" / run.name, plan, hint)
                line = f"{number:3d} of {len(plan.runs)}  {run.name:<{width}}  test {metrics_line(result['test'])}"
                print(f"{line}  ({format_duration(result['seconds'])})", flush=True)
        _report(plan, folder)
    return folder


def _report(plan: ComparisonPlan, folder: Path) -> None:
    """Write and print the tables and plots of all runs."""
    results = _read_results(plan, folder)
    rows = comparison_table.summarize(plan, results)
    comparison_table.write_tables(folder, plan, results, rows)
    print(comparison_table.table_text(plan, rows, comparison_table.headline_metric(results)))
    write_page(folder, plan, results, rows)
    print(f"tables and plots  {folder}")
    print(f"report  {folder / 'report.html'}")


def _read_results(plan: ComparisonPlan, folder: Path) -> list[dict[str, Any]]:
    """The results of all runs. Raises: ValueError for one that another program changed."""
    results = []
    for run in plan.runs:
        file = folder / "runs" / run.name / "result.json"
        result = run_folder.read_json(file, RESULT)
        results.append(result)
        hint = "It was edited. Remove its folder to train the run again."
        actual = [result[name] for name in ("model", "variant", "seed")]
        if actual != [run.model, run.variant, run.seed]:
            check.fail(str(file), expected=f"it should be the result of {run.name}", actual=actual, hint=hint)
        lengths = {len(column) for column in result["curve"].values()}
        same_metrics = all(set(result[name]) == set(results[0][name]) for name in ("test", "curve"))
        if not same_metrics or "step" not in result["curve"] or len(lengths) != 1 or lengths == {0}:
            check.fail(str(file), f"it should have the metrics and curves of {plan.runs[0].name}.", hint=hint)
    return results


def _open_folder(name: str, plan: ComparisonPlan, folder: Path | None) -> Path:
    """A new folder for the comparison, or that of the same one."""
    import tomli_w

    tables = tomli_w.dumps(plan.tables).encode()
    if folder is not None and (folder / "compare.toml").is_file():
        if problem := documents.find_outside_link(folder):
            check.fail(str(folder), f"{problem}.", hint="Replace it with a file or folder.")
        if documents.read_bytes(folder / "compare.toml") != tables:
            problem, hint = "the folder has a comparison with other settings.", "Choose another folder with --run."
            check.fail(str(folder), problem, hint=hint, exc_type=FileExistsError)
        return folder
    folder = run_folder.create_folder(name, folder)
    records = DataRecords(folder, per_data_set=True)
    for run in plan.runs:
        _, data, values = run.config.part("data")
        records.save(data, values, run.config.preprocessing)
        save_base(run.config, records)
    (folder / "compare.toml").write_bytes(tables)
    run_folder.write_environment(folder)
    return folder


def _train_run(run: PlannedRun, folder: Path, plan: ComparisonPlan, hint: str) -> dict[str, Any]:
    """Train one run, and write and return its result: test metrics, curves and times."""
    config = run.config
    resume = (folder / "config.toml").exists()
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_run(config, folder)
    training = fit_config(config, folder, resume=resume, lines=False)
    if int(training.state.step) < config.train["steps"]:
        message = f"stopped in {run.name}; everything trained so far is saved. {hint}"
        raise interrupts.Stopped(training.signals[0], message)
    state, step = restore.restore(config, folder, "best")
    if config.test() is None:
        check.fail("compare", f"the data of {run.model} has no test split.")
    history = training.history
    result: dict[str, Any] = {"model": run.model, "variant": run.variant, "seed": run.seed}
    with tuning.pinned(saved_forms(folder) or {}):
        result |= {"test": split_metrics(config, state, "test", config.data())}
    result |= {"best_step": step, "seconds": round(training.seconds, 2)}
    result |= _time_to_target(history, plan.target, BestMetric.parse(config.train["best"]))
    result["curve"] = {name: column.tolist() for name, column in history.validation.items()}
    run_folder.write_json(folder / "result.json", result)
    return result


def _time_to_target(history: History, target: tuple[str, float] | None, best: BestMetric) -> dict[str, Any]:
    """The seconds per step, and the steps and seconds to the target, None when it was never reached.

    The time of a step is the median over the intervals of the log, which leaves out compilation and
    evaluation.
    """
    steps, seconds = history.train["step"], history.train["seconds"]
    if len(steps) < 2:
        check.fail("compare", expected="train.log_every should give at least two intervals per run", actual=len(steps))
    per_step = float(np.median(np.diff(seconds) / np.diff(steps)))
    if target is None:
        return {"seconds_per_step": per_step}
    metric, value = target
    if metric not in history.validation:
        hint = nearest_hint(metric, history.validation, list_names=True)
        check.fail("compare", expected="target should name a validation metric", actual=repr(metric), hint=hint)
    column = history.validation[metric]
    smaller_is_better = metric in ("loss", "mae") or (metric == best.name and best.mode == "min")
    hits = np.flatnonzero(column <= value if smaller_is_better else column >= value)
    reached = int(history.validation["step"][hits[0]]) if len(hits) else None
    return {
        "seconds_per_step": per_step,
        "steps_to_target": reached,
        "seconds_to_target": None if reached is None else reached * per_step,
    }
