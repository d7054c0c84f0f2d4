"""What an answer without a look at the input reaches, which a model has to beat.

Of classes it is their shares among the training labels, whose best guess is always the commonest one;
of tokens the same; of numbers it is the mean of the training targets, or for mae their median.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import PyTree, as_model
from nnfunc.data.dataset import Data
from nnfunc.training.evaluate import evaluate
from nnfunc.training.task import Task

__all__ = ["answer_of", "baseline"]


def answer_of(settings: Mapping[str, Any], data: Any) -> np.ndarray | None:
    """The output [...] that is best for all examples at once, or None where that is not known.

    settings: the config's table of the objective. data: with its training examples.
    """
    kind = settings["name"]
    if not isinstance(data, Data):  # a stream is not read for it
        return None
    if data.window is not None:
        target = np.asarray(data.arrays)
    elif isinstance(data.arrays, tuple | list) and len(data.arrays) == 2:
        target = np.asarray(data.arrays[1])
    else:
        return None
    if kind == "regression":
        middle = np.median if settings.get("loss") == "mae" else np.mean
        return middle(target.astype(np.float64), axis=0).astype(np.float32)
    if kind not in ("classification", "language_modelling"):
        return None
    if np.issubdtype(target.dtype, np.integer):
        counted = target[(target >= 0) & (target != settings.get("ignore_index"))]
        counts = np.bincount(counted, minlength=data.classes or 0) + 1.0
    else:  # shares of classes
        counts = target.reshape(-1, target.shape[-1]).sum(0, dtype=np.float64) + 1.0
    return np.log(counts / counts.sum()).astype(np.float32)


def baseline(settings: Mapping[str, Any], objective: Any, data: Any, arrays: PyTree) -> dict[str, float]:
    """The metrics of `answer_of` on a split; {} where there is none, or the objective refuses it."""
    answer = answer_of(settings, data)
    if answer is None:
        return {}
    axes = 2 if settings["name"] == "language_modelling" else 1

    def apply(params, x):
        lead = jnp.shape(jax.tree.leaves(x)[0])[:axes]
        return jnp.broadcast_to(params["answer"], (*lead, *answer.shape))

    model = as_model((lambda key: {"answer": jnp.asarray(answer)}, apply))
    task = Task(model, objective, None)
    try:
        return evaluate(task, model.init(jax.random.key(0)), arrays, transform=data.transform)
    except (ValueError, TypeError):  # it has other classes, or an objective asks for more
        return {}
