"""Objectives of models whose outputs are numbers: values, quantiles, a mean with a deviation, counts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses
from nnfunc.base import Array, Scalar
from nnfunc.training.objectives.objective import Objective
from nnfunc.training.objectives.objective_totals import example_mask, input_and_target, masked_total, mean_objective


def regression(
    loss: Literal["mse", "mae", "huber", "quantile"] = "mse",
    *,
    delta: Scalar = 1.0,
    quantiles: Sequence[Scalar] = (0.1, 0.5, 0.9),
) -> Objective:
    """The mean error of predictions against targets of the same shape, or of predicted quantiles.

    Batches are pairs (x, target). Metrics: mae; of quantiles, that of the middle one.
    loss: "mse" (squared), "mae" (absolute), "huber" (squared up to delta, then linear), "quantile" (pinball: the
        model has one output for each quantile of each target, [batch, outputs * quantiles] with the quantiles of
        the first output first).
    delta: of huber, above 0.
    quantiles: of quantile, each in (0, 1), in ascending order.
    Raises: ValueError for numbers out of range, and outputs whose shape does not fit the targets.
    Source: the pinball loss is Koenker and Bassett 1978, as sklearn.metrics.mean_pinball_loss.

    >>> task = nf.Task(nf.linear(2, 1), nf.regression("huber"), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))))
    ['loss', 'mae']
    """
    where = "regression"
    check.choice(where, ("mse", "mae", "huber", "quantile"), loss=loss)
    if loss == "quantile":
        return _quantile_objective(where, tuple(quantiles))

    def totals(predict, batch, mask):
        x, target = input_and_target(where, batch)
        y = predict(x)
        options = {"delta": delta} if loss == "huber" else {}
        value = getattr(losses, loss)(y, target, **options)  # before mae, for its errors
        return _number_totals(where, value, y, target, mask)

    return mean_objective(totals, None, "values")


def _quantile_objective(where: str, quantiles: tuple[Scalar, ...]) -> Objective:
    for quantile in quantiles:
        check.number(where, 0, 1, open_low=True, quantiles=quantile)
    check.ordered(where, **{f"quantiles[{i}]": value for i, value in enumerate(quantiles)})
    count = len(quantiles)
    check.size(where, **{"the number of quantiles": count})

    def totals(predict, batch, mask):
        x, target = input_and_target(where, batch)
        target = jnp.asarray(target)
        y = predict(x)
        if np.size(y) != target.size * count:
            expected = f"the model should have {count} outputs for each target, of shape {target.shape}"
            check.fail(where, expected=expected, actual=f"outputs of shape {np.shape(y)}")
        y = y.reshape(*target.shape, count)
        level = jnp.stack([jnp.asarray(quantile).astype(y.dtype) for quantile in quantiles])
        value = losses.pinball(y, jnp.broadcast_to(target[..., None], y.shape), quantile=level)
        return _number_totals(where, value, y[..., count // 2], target, mask)

    return replace(mean_objective(totals, None, "quantiles"), quantiles=count)


def gaussian(*, floor: Scalar = 1e-6) -> Objective:
    """Negative log-likelihood of targets under a normal distribution with a predicted mean and deviation, in nats.

    loss = log(s) + ((target - mean) / s)^2 / 2 + log(2 pi) / 2, s the deviation.

    Batches are pairs (x, target), targets [batch] or [batch, outputs]. The model gives [batch, 2 * outputs], first the
    means and then the logarithms of the deviations, or a pair of the two.
    floor: the smallest variance, above 0.
    Metrics: mae, of the mean.
    Raises: ValueError for a floor out of range, and outputs whose shape does not fit the targets.
    Source: Nix and Weigend 1994; torch.nn.functional.gaussian_nll_loss with full=True.

    >>> task = nf.Task(nf.linear(2, 2), nf.gaussian(), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.ones(4, np.float32))))
    ['loss', 'mae']
    """
    where = "gaussian"
    check.number(where, 0, open_low=True, floor=floor)

    def totals(predict, batch, mask):
        x, target = input_and_target(where, batch)
        y, target = predict(x), jnp.asarray(target)
        if not isinstance(y, tuple | list):
            y = jnp.split(y, 2, axis=-1) if np.shape(y)[-1] % 2 == 0 else (y,)
        if len(y) != 2 or any(np.size(part) != target.size for part in y):
            expected = f"the model should have two outputs for each target, of shape {target.shape}"
            actual = f"outputs of shape {' and '.join(str(np.shape(part)) for part in y)}"
            check.fail(where, expected=expected, actual=actual, hint="A mean and the logarithm of a deviation.")
        mean, log_deviation = (part.reshape(target.shape) for part in y)
        value = losses.gaussian_nll((mean, jnp.exp(2 * log_deviation)), target, floor=floor, full=True)
        return _number_totals(where, value, mean, target, mask)

    return mean_objective(totals, None, "deviation")


def poisson() -> Objective:
    """Negative log-likelihood of counts under a Poisson distribution with a predicted log-rate, in nats.

    loss = exp(log_rate) - count * log_rate + log(count!).

    Batches are pairs (x, counts), counts of at least 0; the model gives the logarithms of the rates, of the same shape.
    Metrics: mae, of the rate.
    Raises: ValueError when the shapes differ, and for negative counts.
    Source: torch.nn.functional.poisson_nll_loss, with the exact log(count!).

    >>> task = nf.Task(nf.linear(2, 1), nf.poisson(), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.arange(4)[:, None])))
    ['loss', 'mae']
    """
    where = "poisson"

    def totals(predict, batch, mask):
        x, counts = input_and_target(where, batch)
        y = predict(x)
        value = losses.poisson_nll(y, counts, full=True)
        return _number_totals(where, value, jnp.exp(y), jnp.asarray(counts).astype(value.dtype), mask)

    def inspect(y, arrays):
        counts = np.asarray(input_and_target(where, arrays)[1])
        if (counts < 0).any():
            index = int(np.flatnonzero((counts < 0).reshape(len(counts), -1).any(-1))[0])
            check.fail(where, expected="counts should be at least 0", actual=f"{counts[index]} at index {index}")

    return mean_objective(totals, inspect, "counts")


def _number_totals(where: str, loss: Array, value: Array, target: Any, mask: Array | None) -> Any:
    """The totals of a loss for each number or quantile, and of the absolute error of the values."""
    counted = example_mask(where, mask, loss.shape)
    absolute = losses.mae(value, jnp.asarray(target).astype(value.dtype))
    mae = masked_total(absolute, example_mask(where, mask, absolute.shape))
    return {"loss": masked_total(loss, counted), "mae": mae}
