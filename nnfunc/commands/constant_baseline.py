"""The metrics of the best constant prediction, which a model has to beat.

For classes and tokens the constant is their frequencies among the training labels, whose most likely
class is the most frequent one. For numbers it is the mean of the training targets, and for the loss mae
their median.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import as_model
from nnfunc.commands.terminal import metrics_line
from nnfunc.config import Config
from nnfunc.config.restore import rebuild_task
from nnfunc.data.dataset import Data
from nnfunc.runs import status
from nnfunc.training.evaluate import evaluate
from nnfunc.training.step import TrainState
from nnfunc.training.task import Task

__all__ = ["baselines", "constant_prediction", "warn_if_not_better"]


def baselines(config: Config, state: TrainState, splits: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of the constant prediction, by split; {} where there is none.

    config: of the run. state: of the checkpoint, whose step the objective may depend on. splits: the
    arrays of each split by name.
    """
    objective, data = config.tables["objective"], config.data()
    output = constant_prediction(objective, data)
    if output is None:
        return {}
    leading_axes = 2 if objective["name"] == "language_modelling" else 1

    def apply(params, x):
        shape = np.shape(jax.tree.leaves(x)[0])[:leading_axes]
        return jnp.broadcast_to(params["output"], (*shape, *output.shape))

    model = as_model((lambda key: {"output": jnp.asarray(output)}, apply))
    task = Task(model, rebuild_task(config, state).objective, None)
    params = model.init(jax.random.key(0))
    metrics = {}
    for name, arrays in splits.items():
        with suppress(ValueError, TypeError):  # the split has other classes, or the objective needs more
            metrics[name] = evaluate(task, params, arrays, transform=data.transform)
    return metrics


def constant_prediction(objective: Mapping[str, Any], data: Any) -> np.ndarray | None:
    """The output [...] that is best for all training examples at once, or None when it is unknown.

    objective: the config's table. data: the data set; a stream is not read for this, and gives None.
    """
    name = objective["name"]
    if not isinstance(data, Data):
        return None
    if data.window is not None:
        target = np.asarray(data.arrays)
    elif isinstance(data.arrays, tuple | list) and len(data.arrays) == 2:
        target = np.asarray(data.arrays[1])
    else:
        return None
    if name == "regression":
        average = np.median if objective.get("loss") == "mae" else np.mean
        return average(target.astype(np.float64), axis=0).astype(np.float32)
    if name not in ("classification", "language_modelling"):
        return None
    if np.issubdtype(target.dtype, np.integer):
        labels = target[(target >= 0) & (target != objective.get("ignore_index"))]
        counts = np.bincount(labels, minlength=data.classes or 0) + 1.0
    else:  # probabilities of the classes
        counts = target.reshape(-1, target.shape[-1]).sum(0, dtype=np.float64) + 1.0
    return np.log(counts / counts.sum()).astype(np.float32)


def warn_if_not_better(split: str, metrics: dict[str, float], baselines: dict[str, dict[str, float]]) -> None:
    """Print a warning when a model does not beat the constant prediction.

    split: the split's name. metrics: of the model on it. baselines: of the constant prediction by split.
    """
    baseline = baselines.get(split)
    if baseline and not status.beats_baseline(metrics, baseline):
        print(f"warning the model does not beat a constant prediction: {split} {metrics_line(baseline)}")
