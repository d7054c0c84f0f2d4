"""What a model is to achieve: functions `(predict, batch) -> (loss, metrics)`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses, metrics
from nnfunc.base import Array, PyTree, Scalar

__all__ = ["Objective", "classification", "language_modelling", "regression"]


@dataclass(frozen=True)
class Objective:
    """A function (predict, batch) -> (loss, metrics), and a look at the data before the run.

    inspect(y, arrays): y is the shape and type of the model's output, arrays the whole data set;
    it raises ValueError when they do not fit. logits: whether y is that, over its last axis.
    """

    function: Callable[[Any, PyTree], tuple[Array, dict[str, Array]]]
    inspect: Callable[[Any, PyTree], None] | None = None
    logits: bool = False

    def __call__(self, predict: Any, batch: PyTree) -> tuple[Array, dict[str, Array]]:
        return self.function(predict, batch)


def classification(
    *,
    smoothing: Scalar | None = None,
    gamma: Scalar | None = None,
    weights: Array | Sequence[Scalar] | None = None,
) -> Objective:
    """Cross-entropy of logits [batch, classes] against labels [batch], and the accuracy.

    Batches are pairs (x, labels); labels may also be soft, floats [batch, classes] that add up to 1, as
    `nf.augment.mixup` makes them. smoothing: the share of the target spread over all classes, in
    [0, 1]; None is 0. gamma: with it, the focal loss of that exponent (without smoothing, and of whole
    labels: it knows no shares). weights: one factor a class, by which the batch's examples are weighed.
    Metrics: accuracy; of soft labels, that of their likeliest class.
    """
    smoothing = 0.0 if smoothing is None else smoothing
    check.number("classification", 0, 1, smoothing=smoothing)
    if gamma is not None and not (check.is_plain(smoothing) and smoothing == 0):
        wanted = "smoothing should be 0 together with gamma: the focal loss has none"
        got = smoothing if check.is_plain(smoothing) else "one that a sweep or a schedule gives"
        check.fail("classification", f"{wanted}, got {got}.")

    def objective(predict, batch):
        x, labels = pair("classification", batch)
        logits = predict(x)
        if gamma is None:
            return _judged(logits, labels, smoothing=smoothing, weights=weights)
        if _soft(logits, labels):
            wanted = (
                "labels should be class numbers together with gamma: focal loss knows no shares"
            )
            got = check.describe(labels)
            check.fail(
                "classification", f"{wanted}, got {got}. Leave out gamma, or what mixes them."
            )
        loss = losses.focal(logits, labels, gamma=gamma, alpha=weights)
        return loss.mean(), {"accuracy": metrics.accuracy(logits, labels).mean()}

    return Objective(objective, _labels_fit("classification", soft=gamma is None), logits=True)


def regression(loss: Literal["mse", "mae", "huber"] = "mse", *, delta: Scalar = 1.0) -> Objective:
    """The mean error of predictions against targets of the same shape.

    Batches are pairs (x, target). loss: "mse" (squared), "mae" (absolute), "huber" (with delta).
    Metrics: mae.
    """
    check.choice("regression", ("mse", "mae", "huber"), loss=loss)

    def objective(predict, batch):
        x, target = pair("regression", batch)
        y = predict(x)
        absolute = losses.mae(y, target)
        if loss == "huber":
            value = losses.huber(y, target, delta=delta)
        else:
            value = absolute if loss == "mae" else losses.mse(y, target)
        return value.mean(), {"mae": absolute.mean()}

    return Objective(objective)


def language_modelling(*, smoothing: Scalar = 0.0) -> Objective:
    """Cross-entropy of logits [batch, time, vocabulary] against the next tokens [batch, time].

    Batches are pairs (tokens, next tokens); the latter may also be soft, floats [batch, time,
    vocabulary] that add up to 1, such as a teacher's. The loss is in nats a token; accuracy is that of
    the likeliest token.
    """
    check.number("language_modelling", 0, 1, smoothing=smoothing)

    def objective(predict, batch):
        tokens, following = pair("language_modelling", batch)
        return _judged(predict(tokens), following, smoothing=smoothing)

    return Objective(objective, _labels_fit("language_modelling"), logits=True)


def pair(where: str, batch: PyTree) -> tuple[PyTree, Any]:
    """The two parts of a batch (x, target)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = check.describe(batch)
        check.fail(where, f"a batch should be a pair (x, target), got {got}.", kind=TypeError)
    return batch[0], batch[1]


def _soft(logits: Array, labels: Any) -> bool:
    """Whether labels are shares of classes: floats with as many axes as the logits."""
    floats = jnp.issubdtype(getattr(labels, "dtype", np.int32), jnp.floating)
    return floats and np.ndim(labels) == np.ndim(logits)


def _judged(logits: Array, labels: Any, **settings: Any) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy and accuracy against class numbers, or against shares of classes."""
    if _soft(logits, labels):
        loss, best = losses.cross_entropy_dense(logits, labels, **settings), labels.argmax(-1)
    else:
        loss, best = losses.cross_entropy(logits, labels, **settings), labels
    return loss.mean(), {"accuracy": metrics.accuracy(logits, best).mean()}


def _labels_fit(where: str, soft: bool = True) -> Callable[[Any, PyTree], None]:
    """Every label is a class that the model has an output for, or, if soft, shares of all of them."""

    def inspect(y, arrays):
        _, labels = pair(where, arrays)
        if soft and _soft(y, labels):
            return _shares_fit(where, y.shape[-1], np.asarray(labels))
        check.integers(where, "They are class numbers.", labels=labels)
        classes, values = y.shape[-1], np.asarray(labels)
        wrong = np.flatnonzero((values < 0) | (values >= classes))
        if wrong.size:
            at, value = int(wrong[0]), values.reshape(-1)[wrong[0]]
            wanted = f"labels should be in [0, {classes}), one of the model's {classes} outputs"
            check.fail(where, f"{wanted}, got {value} at place {at} ({wrong.size} such labels).")

    return inspect


def _shares_fit(where: str, classes: int, labels: np.ndarray) -> None:
    if labels.shape[-1] != classes:
        wanted = f"soft labels should be shares of the model's {classes} outputs"
        check.fail(where, f"{wanted}, got shape {labels.shape}.")
    values = labels.reshape(-1, classes).astype(np.float32)
    fine = (values >= 0).all(1) & (abs(values.sum(1) - 1) < 1e-2)
    if not fine.all():
        at = int(np.flatnonzero(~fine)[0])
        wanted = "soft labels should be at least 0 and add up to 1"
        check.fail(
            where, f"{wanted}, got {values[at]} at place {at} ({(~fine).sum()} such labels)."
        )
