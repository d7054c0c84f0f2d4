"""What experiments 6 to 9 share beyond `common`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import nnfunc as nf
from scripts.experiments import common


def small_images(**options):
    """`common.images` with MNIST shrunk to 14 x 14 by the mean of each 2 x 2 pixels.

    A quarter of the time of a step; an MLP loses about half a point of accuracy by it.
    """
    found = common.images(**options)
    if found.pixels != 784:
        return found

    def shrink(part):
        x, y = part
        return x.reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(x.dtype).reshape(-1, 196), y

    splits = found.splits
    parts = {name: shrink(getattr(splits, name)) for name in ("train", "validation", "test")}
    return common.Images(splits._replace(**parts), "MNIST at 14 x 14", 196)


def plus_minus(values, digits=1, factor=1.0):
    """`mean ± half of the 95 % interval` over the last axis, as text."""
    mean, half = common.interval(np.asarray(values) * factor)
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if np.isfinite(half) else f"{mean:.{digits}f}"


def auroc(inside, outside):
    """The probability that a score of `outside` is above one of `inside`: 0.5 is chance, 1 perfect separation.

    The area under the ROC curve is Mann and Whitney's statistic over the number of pairs.
    """
    ranks = stats.rankdata(np.concatenate([inside, outside]))[len(inside) :]
    n = len(outside)
    return (ranks.sum() - n * (n + 1) / 2) / (len(inside) * n)


@partial(jax.jit, static_argnums=(0, 3))
def outputs(model, params, x, transform=None):
    """The outputs of every trial for all examples: [trials, examples, ...].

    params: stacked, as `train_many` returns them. transform: of the data set, or None.
    """
    x = x if transform is None else transform(x)
    return jax.lax.map(lambda trial_params: model.apply(trial_params, x), params)


def split_metrics(model, params, split, transform=None):
    """Mean cross-entropy and accuracy of every trial on a split (x, y): [trials] each."""
    x, y = split
    logits = outputs(model, params, x, transform)
    y = jnp.broadcast_to(y, logits.shape[:2])
    loss, right = nf.losses.cross_entropy(logits, y), nf.metrics.accuracy(logits, y)
    return np.asarray(loss.mean(1)), np.asarray(right.mean(1))


def errorbars(axis, x, values, i, *, shift=0.0, **style):
    """Means over the last axis with their 95 % intervals, in the colour and marker of number i."""
    mean, half = common.interval(values)
    half = half if np.isfinite(half).all() else None  # one value has no interval
    style = {"color": common.COLOURS[i], "marker": common.MARKERS[i], "capsize": 2} | style
    axis.errorbar(np.asarray(x) + shift, mean, half, **style)


@jax.jit
def calibration_error(logits, y):
    """The expected calibration error of logits, or logs of probabilities, [examples, classes]."""
    metric = nf.metrics.calibration()
    return metric.compute(metric.update(metric.init(), logits, y))


def entropy(probabilities):
    """In nats, over the last axis."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)
