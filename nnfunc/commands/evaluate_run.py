"""The command `nnfunc evaluate`, and the metrics of a run's checkpoint on one split."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from nnfunc import check, tuning
from nnfunc.commands.constant_baseline import baselines, warn_if_not_better
from nnfunc.commands.terminal import metrics_line
from nnfunc.config import Config
from nnfunc.config.restore import read_config, rebuild_task, restore
from nnfunc.training.checkpointing import saved_forms
from nnfunc.training.compiled import RunFunctions, compiled_functions, split_hypers
from nnfunc.training.evaluate import check_batches_fit, mean_metrics, split_batches
from nnfunc.training.step import TrainState

__all__ = ["evaluate", "run_programs", "split_metrics"]


def evaluate(
    folder: Path,
    split: str = "test",
    checkpoint: str = "best",
    batch_size: int | None = None,
    *,
    changed_data: bool = False,
) -> dict[str, float]:
    """Print and return the metrics of a run's checkpoint.

    folder: of the run. split: "test" or "validation". checkpoint: "best" or "last". batch_size: examples
    per batch, at least 1; by default as in the run's evaluations, which fit the memory. changed_data:
    accept data files that changed since the run began; their original rows keep their splits.
    Raises: ValueError when the data has no such split.
    """
    check.size("evaluate", batch_size=1 if batch_size is None else batch_size)
    check.choice("evaluate", ("test", "validation"), split=split)
    config = read_config(folder, changed_data=changed_data)
    data = config.data()
    state, step = restore(config, folder, checkpoint)
    arrays = config.test() if split == "test" else data.validation
    if arrays is None:
        other = "validation" if split == "test" else "test"
        check.fail("evaluate", f"the data of {folder} has no {split} split.", hint=f"Try --split {other}.")
    if batch_size is not None:
        data = replace(data, eval_batch_size=batch_size)
    with tuning.pinned(saved_forms(folder) or {}):
        metrics = split_metrics(config, state, split, data)
    print(f"{split}  {metrics_line(metrics)}   ({len(jax.tree.leaves(arrays)[0])} examples, step {step})")
    warn_if_not_better(split, metrics, baselines(config, state, {split: arrays}))
    return metrics


def split_metrics(config: Config, state: TrainState, split: str, data: Any) -> dict[str, float]:
    """The metrics of a split, computed by the program that evaluates the run during training.

    config: of the run. state: of the checkpoint. split: "test" or "validation". data: the data set of
    the config, or one with another eval_batch_size.
    """
    run, numbers = run_programs(config)
    batches = split_batches(rebuild_task(config, state), data, split)
    batches = check_batches_fit("evaluate", run.eval_totals, (state, numbers), batches)
    return mean_metrics(partial(run.eval_totals, state, numbers), batches)


def run_programs(config: Config) -> tuple[RunFunctions, Any]:
    """The compiled functions of a run, and their traced hyperparameters. config: of the run."""
    numbers, static, treedef = split_hypers(config.hypers)
    return compiled_functions(config.build, static, treedef, config.train.get("rollback", 0) > 0), numbers
