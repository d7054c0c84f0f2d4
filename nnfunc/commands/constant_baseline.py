"""The metrics of the best constant prediction, which a model has to beat.

For classes, tags and tokens the constant is their frequencies among the training labels, whose most likely
class is the most frequent one; for answers the frequency of yes. For numbers it is the mean of the training
targets, and for the loss mae their median; for quantiles those of the targets.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import as_model
from nnfunc.commands.terminal import metrics_line, print_lines
from nnfunc.config import Config
from nnfunc.config.held_out_rows import restore_rows
from nnfunc.data.dataset import Data
from nnfunc.evaluation.held_out_metrics import constant_output
from nnfunc.runs import status
from nnfunc.runs.best_metric import BestMetric
from nnfunc.training.evaluate import evaluate
from nnfunc.training.task import Task


def baselines(config: Config, task: Task, splits: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of the constant prediction, by split; {} where there is none.

    config: of the run.
    task: of the run, at the step of the checkpoint, which the objective may depend on.
    splits: the arrays of each split by name.
    """
    data, output_type = config.data(), getattr(task.objective, "output_type", "")
    output = constant_prediction(output_type, config.tables["objective"], data)
    if output is None:
        return {}
    leading_axes = 2 if output_type in ("tokens", "tags") else 1

    def apply(params, x):
        shape = np.shape(jax.tree.leaves(x)[0])[:leading_axes]
        return jnp.broadcast_to(params["output"], (*shape, *output.shape))

    model = as_model((lambda key: {"output": jnp.asarray(output)}, apply))
    constant = Task(model, task.objective, None, metrics=task.metrics)
    params = model.init(jax.random.key(0))
    metrics = {}
    for name, arrays in splits.items():
        with suppress(ValueError, TypeError):  # the split has other classes, or the objective needs more
            metrics[name] = evaluate(constant, params, arrays, transform=data.transform)
    return metrics


def constant_prediction(output_type: str, options: Mapping[str, Any], data: Any) -> np.ndarray | None:
    """The output [...] that is best for all training examples at once, or None when it is unknown.

    output_type: of the objective's outputs.
    options: the config's table of the objective.
    data: the data set; a stream is not read for this, and gives None.
    """
    target = _counted_target(data, options)
    if target is None:
        return None
    levels = (0.5,) if options.get("loss") == "mae" else quantile_levels(options)
    output_type = "quantiles" if options.get("loss") == "mae" else output_type
    return constant_output(output_type, target, classes=data.classes, levels=levels)


def restored_target(config: Config, data: Any) -> np.ndarray | None:
    """The targets of the training examples as in `held_out_rows`: in the units of the file, those that count.

    config: of the run.
    data: its data set. Returns: None where `training_target` does.
    """
    target = _counted_target(data, config.tables["objective"])
    return None if target is None else restore_rows(config, data, "train", target)


def quantile_levels(options: Mapping[str, Any]) -> Sequence[float]:
    """The levels of the quantiles that a run predicts. options: the config's table of the objective."""
    return options.get("quantiles", (0.1, 0.5, 0.9))


def _counted_target(data: Any, options: Mapping[str, Any]) -> np.ndarray | None:
    """The targets of `training_target` without ignored labels. options: the config's table of the objective."""
    target, ignored = training_target(data), options.get("ignore_index")
    if target is None or ignored is None or not np.issubdtype(target.dtype, np.integer):
        return target
    return target[target != ignored]


def training_target(data: Any) -> np.ndarray | None:
    """The targets of all training examples, or the tokens; None for a stream and for examples that are no pairs."""
    if not isinstance(data, Data):
        return None
    if data.window is not None:
        return np.asarray(data.arrays)
    if isinstance(data.arrays, tuple | list) and len(data.arrays) == 2:
        return np.asarray(data.arrays[1])
    return None


def warn_if_not_better(
    split: str, metrics: dict[str, float], baselines: dict[str, dict[str, float]], config: Config
) -> None:
    """Print a warning when a model does not beat the constant prediction.

    split: the split's name.
    metrics: of the model on it.
    baselines: of the constant prediction by split.
    config: of the run.
    """
    baseline = baselines.get(split)
    if baseline and not status.beats_baseline(metrics, baseline, BestMetric.of_config(config.tables)):
        print_lines(f"warning the model does not beat a constant prediction: {split} {metrics_line(baseline)}")


def print_naive_forecasts(split: str, metrics: Mapping[str, float], config: Config) -> None:
    """Print the metrics of the forecasts without a model that `nf.data.forecasting` computed.

    split: its name.
    metrics: of the model on it.
    config: of the run.
    """
    for name, parts in config.preprocessing.facts.get("baselines", {}).items():
        if naive := parts.get(split):
            is_worse = any(metrics[key] >= naive[key] for key in naive if key in metrics)
            print(f"{name}  {metrics_line(naive)}{'   (the model is not better)' if is_worse else ''}")
