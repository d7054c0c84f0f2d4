"""The command `nnfunc evaluate`, and the metrics of a run's checkpoint on one split."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check, documents, tuning
from nnfunc.commands.constant_baseline import (
    baselines,
    print_naive_forecasts,
    quantile_levels,
    restored_target,
    warn_if_not_better,
)
from nnfunc.commands.interrupts import explain_full_disk
from nnfunc.commands.terminal import metrics_line, open_console, print_lines
from nnfunc.config import Config
from nnfunc.config.config_errors import ConfigError
from nnfunc.config.file_paths import path_keys
from nnfunc.config.held_out_rows import held_out_rows, split_rows
from nnfunc.config.restore import read_config, read_threshold, rebuild_task, restore
from nnfunc.config.schema import factories
from nnfunc.data.dataset import count_examples
from nnfunc.evaluation import (
    HeldOut,
    baseline,
    bootstrap,
    compute_metrics,
    confusion,
    curves,
    find_metric,
    per_class,
    worst,
)
from nnfunc.evaluation.held_out_metrics import class_names, metric_names_of
from nnfunc.evaluation.readings import ANSWERS, CLASSES
from nnfunc.evaluation.thresholds import THRESHOLD_METRICS
from nnfunc.runs import run_folder
from nnfunc.training.checkpointing import saved_forms
from nnfunc.training.compiled import RunFunctions, compiled_functions, split_hypers
from nnfunc.training.evaluate import check_batches_fit, mean_metrics, split_batches
from nnfunc.training.evaluate import evaluate as evaluate_task
from nnfunc.training.train_state import TrainState


def evaluate(
    folder: Path,
    split: str = "test",
    checkpoint: str = "best",
    batch_size: int | None = None,
    *,
    file: Path | None = None,
    metrics: Sequence[str] = (),
    json_file: Path | None = None,
    changed_data: bool = False,
) -> dict[str, float]:
    """Print the evaluation of a run's checkpoint, and return the metrics of its objective.

    folder: of the run.
    split: "test", "validation" or "train", of which at most 10,000 rows are used.
    checkpoint: "best" or "last".
    batch_size: examples per batch, at least 1; by default as in the run's evaluations, which fit the memory.
    file: of labelled rows like those of the training data, which are evaluated instead of a split.
    metrics: names; () for those of the type of outputs, and those of the config.
    json_file: for the whole result, or None.
    changed_data: accept data files that changed since the run began; their original rows keep their splits.
    Raises: ValueError when the data has no such split, or the outputs have no such metric.
    """
    check.size("evaluate", batch_size=1 if batch_size is None else batch_size)
    check.choice("evaluate", ("test", "validation", "train"), split=split)
    config = read_config(folder, changed_data=changed_data)
    data, name = (config.data(), split) if file is None else (_file_data(config, file), file.name)
    state, step = restore(config, folder, checkpoint)
    split = split if file is None else "train"
    if getattr(data, split, None) is None and split != "train":
        other = "validation" if split == "test" else "test"
        check.fail("evaluate", f"the data of {folder} has no {split} split.", hint=f"Try --split {other}.")
    if batch_size is not None:
        data = replace(data, eval_batch_size=batch_size)
    most = {} if file is None else {"most": None}
    arrays, _ = split_rows(data, split, **most)
    task = rebuild_task(config, state)
    with tuning.pinned(saved_forms(folder) or {}):
        if split == "train":
            size = data.eval_batch_size or config.eval_batch_size
            params = (state.params, arrays)
            values = evaluate_task(task, *params, state=state.model_state, transform=data.transform, batch_size=size)
        else:
            values = split_metrics(config, state, split, data)
        constant: dict[str, dict[str, float]] = {}
        with suppress(ConfigError, OSError):  # without the training data there is no baseline
            constant = baselines(config, task, {name: arrays})
        held_out = None
        if getattr(task.objective, "output_type", ""):
            options = {"threshold": read_threshold(config), **most, "other_file": file is not None}
            held_out = held_out_rows(config, data, split, task, state.params, state.model_state, **options)
    for metric in metrics:
        find_metric("evaluate", getattr(task.objective, "output_type", ""), metric)
    if held_out is not None and held_out.threshold is not None:
        values |= compute_metrics(held_out, [metric for metric in values if metric in THRESHOLD_METRICS])
    print_lines(f"{name}  {metrics_line(values)}   ({len(jax.tree.leaves(arrays)[0])} examples, step {step})")
    warn_if_not_better(name, values, constant, config)
    print_naive_forecasts(name, values, config)
    if held_out is None:
        return values
    if broken := describe_broken(held_out, "metrics that need them are NaN, and curves leave them out"):
        print(f"warning {broken}")
    target = None
    with suppress(ConfigError, OSError):
        target = restored_target(config, config.data())
    names = list(metrics) or list(dict.fromkeys([*metric_names_of(held_out), *task.metrics]))
    losses = {"loss": values["loss"], "baseline": constant.get(name, {}).get("loss")}
    levels = quantile_levels(config.tables["objective"])
    result = {"run": str(folder), "rows": name, "step": step, "threshold": held_out.threshold}
    result["rows_not_finite"] = int((~held_out.finite()).sum())
    result |= evaluation_result(held_out, names, target, losses, levels, config.preprocessing.codec)
    if json_file is not None:
        with explain_full_disk(json_file, "Evaluate again."):
            documents.make_parent(json_file)
            run_folder.write_json(json_file, _plain(result))
    if held_out.threshold is not None and held_out.output_type == "binary":
        print(f"yes from a probability of {held_out.threshold:.4g}, a threshold chosen on the validation split")
    from nnfunc.commands.evaluation_tables import print_tables  # rich takes a while to import

    print_tables(open_console(), result)
    return values


def describe_broken(held_out: HeldOut, effect: str) -> str:
    """Sentences on the rows whose outputs are not finite; "" without such. effect: what follows from them."""
    rows = np.flatnonzero(~held_out.finite())
    if not len(rows):
        return ""
    some = ", ".join(str(row if held_out.ids is None else held_out.ids[row]) for row in rows[:5])
    text = f"{len(rows)} of {check.counted(len(held_out.target), 'row')} have outputs that are not finite"
    return f"{text} (rows {some}{', ...' if len(rows) > 5 else ''}): {effect}. nnfunc find-nan RUN finds the layer."


def evaluation_result(
    held_out: HeldOut,
    names: Sequence[str],
    train_target: np.ndarray | None,
    losses: dict[str, Any],
    levels: Sequence[float] = (0.1, 0.5, 0.9),
    codec: Any = None,
) -> dict[str, Any]:
    """The metrics with intervals and baselines, those by class, confusion, calibration and the worst examples.

    held_out: outputs and targets.
    names: of the metrics.
    train_target: of the training examples, or None.
    losses: loss and baseline, of the objective.
    levels: of quantiles.
    codec: of tokens, or None.
    """
    values, intervals = compute_metrics(held_out, names), bootstrap(held_out, names)
    constants = {} if train_target is None else baseline(train_target, held_out, names, levels=levels)
    row = {"low": None, "high": None}
    table = {"loss": _row(losses["loss"], losses["baseline"], "min", row)}
    for name in names:
        low, high = intervals[name]
        mode = find_metric("evaluate", held_out.output_type, name).mode
        table[name] = _row(values[name], constants.get(name), mode, {"low": low, "high": high})
    has_classes = held_out.output_type in ("classes", "tags", *ANSWERS)
    calibration = curves(held_out)["calibration"]
    bins = [dict(zip(part, row, strict=True)) for part in calibration for row in zip(*part.values(), strict=True)]
    return {
        "metrics": table,
        "baseline_answer": _constant_answer(held_out, train_target) if constants else "",
        "per_class": per_class(held_out) if has_classes else [],
        "confusion": confusion(held_out) if has_classes else None,
        "calibration": bins,
        "worst": _worst_rows(held_out, codec),
    }


def _row(value: float, constant: float | None, mode: str, ends: dict[str, Any]) -> dict[str, Any]:
    """The entry of a metric; better: whether it beats the constant, None where that is unknown."""
    better = None
    if constant is not None and constant == constant:
        better = value > constant if mode == "max" else value < constant
    return {"value": value, **ends, "baseline": constant, "better": better}


def _constant_answer(held_out: HeldOut, target: Any) -> str:
    """The answer that the baseline always gives, for the head of its column."""
    if held_out.output_type in ("classes", "binary"):
        labels = np.asarray(target).reshape(-1)
        if np.issubdtype(labels.dtype, np.floating):
            return "the majority"
        counts = np.bincount(labels[labels >= 0])
        names = class_names(held_out)
        return names[int(counts.argmax())] if len(counts) <= len(names) else "the majority"
    if held_out.output_type in (*CLASSES, *ANSWERS):
        return "the majority"
    return "the quantiles" if held_out.output_type == "quantiles" else "the mean"


def _worst_rows(held_out: HeldOut, codec: Any = None) -> list[dict[str, Any]]:
    """The examples with the largest losses: row, truth, prediction, the probability of the truth, or the text, loss."""
    indices, losses = worst(held_out)
    reading = held_out.reading()
    names = class_names(held_out) if held_out.output_type in CLASSES + ANSWERS else []
    rows = []
    for index, loss in zip(indices.tolist(), losses.tolist(), strict=True):
        row: dict[str, Any] = {"row": index if held_out.ids is None else int(held_out.ids[index])}
        row |= {} if held_out.describe is None else {"example": held_out.row_name(index)}
        if held_out.output_type == "tokens" and codec is not None:
            tokens = held_out.target[index]
            row["text"] = " ".join(codec.decode(tokens[tokens >= 0]).split())[:60]
        if reading.positions == 1:
            truth, prediction = reading.target[index], reading.prediction[index]
            if held_out.output_type in CLASSES:
                row |= {"truth": names[truth], "prediction": names[prediction] if prediction >= 0 else "none"}
                row |= {"probability": float(reading.probability[index, truth])}
            elif held_out.output_type == "binary":
                probability = float(reading.probability[index, 0])
                row |= {"truth": names[int(truth[0])], "prediction": names[int(prediction[0])]}
                row |= {"probability": probability if truth[0] else 1 - probability}
            elif held_out.output_type == "labels":
                listed = lambda answers: (
                    ", ".join(name for name, yes in zip(names, answers, strict=True) if yes) or "none"
                )
                row |= {"truth": listed(truth), "prediction": listed(prediction)}
            else:
                listed = lambda numbers: ", ".join(f"{number:.5g}" for number in numbers)
                row |= {"truth": listed(truth), "prediction": listed(prediction)}
                row |= {"deviation": listed(reading.deviation[index])} if reading.deviation is not None else {}
        rows.append(row | {"loss": loss})
    return rows


def _plain(value: Any) -> Any:
    """The value with lists for arrays, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _file_data(config: Config, file: Path) -> Any:
    """The rows of a file as the training split of a data set, treated as the training data of the run.

    config: of the run.
    file: of the type of files that the run was trained on.
    """
    _, name, values = config.part("data")
    keys = path_keys("data", name)
    if not keys:
        hint = "Use --split."
        check.fail("evaluate", f"the run was trained on {name}, which is not read from a file.", hint=hint)
    if not file.exists():
        check.fail("", f"The file {file} does not exist.", exc_type=FileNotFoundError)
    preprocessing = replace(config.preprocessing, rows=None, parts={})  # so that all rows are in one split
    values |= {keys[0]: str(file), "batch_size": 1}
    data = factories("data")[name](**values, preprocessing=preprocessing)
    parts = [part for part in (data.arrays, data.validation, data.test) if part is not None]
    if len(parts) > 1 and data.window is None:
        arrays = jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *parts)
        data = replace(data, arrays=arrays, preprocessing=None)  # whose rows are of several files
    return replace(
        data, validation=None, test=None, batch_size=min(config.eval_batch_size, count_examples(data.arrays))
    )


def split_metrics(config: Config, state: TrainState, split: str, data: Any) -> dict[str, float]:
    """The metrics of a split, computed by the program that evaluates the run during training.

    config: of the run.
    state: of the checkpoint.
    split: "test" or "validation".
    data: the data set of the config, or one with another eval_batch_size.
    """
    run, numbers = run_programs(config)
    batches = split_batches(rebuild_task(config, state), data, split)
    batches = check_batches_fit("evaluate", run.eval_totals, (state, numbers), batches)
    return mean_metrics(partial(run.eval_totals, state, numbers), batches)


def run_programs(config: Config) -> tuple[RunFunctions, Any]:
    """The compiled functions of a run, and their traced hyperparameters. config: of the run."""
    numbers, static, treedef = split_hypers(config.hypers)
    return compiled_functions(config.build, static, treedef, config.train.get("rollback", 0) > 0), numbers
