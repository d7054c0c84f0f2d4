"""Losses of margins and of distances: yes-or-no scores, rankings of classes, and vectors that should be near.

They are part of `nnfunc.losses`, whose rules hold here.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar, canonicalize_arguments, widen
from nnfunc.loss_math import (
    absolute,
    class_inputs,
    class_weights,
    like,
    mask_invalid,
    nan_unless,
    smallest_divisor,
    vector_inputs,
)
from nnfunc.vector_norm import rescale, vector_norm


@canonicalize_arguments
def hinge(scores: Array, target: Array, *, margin: Scalar = 1.0) -> Array:
    """Shortfall of a yes-or-no score from the margin, `max(0, margin - target * score)`.

    Shapes: scores [...], target [...] of -1 or 1 -> [...]; any other target, 0 too, gives NaN.
    margin: at least 0. The slope where margin and score meet is 0.
    Raises: ValueError when the shapes differ.
    Source: Cortes and Vapnik 1995; sklearn.metrics.hinge_loss.

    >>> [float(value) for value in nf.losses.hinge(jnp.array([0.5, 0.5]), jnp.array([1, -1]))]
    [0.5, 1.5]
    """
    check.number("hinge", 0, margin=margin)
    scores, target, valid = _signed("hinge", target, scores=scores)
    (margin,) = like(scores, margin)
    return nan_unless(valid, jax.nn.relu(margin - target * scores))


@canonicalize_arguments
def hinge_embedding(distances: Array, target: Array, *, margin: Scalar = 1.0) -> Array:
    """A distance that should be small where the target is 1, and at least the margin where it is -1.

    loss = distance where target is 1, max(0, margin - distance) where it is -1.

    Shapes: distances [...], target [...] of -1 or 1 -> [...]; any other target gives NaN.
    margin: at least 0.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.hinge_embedding_loss.

    >>> [float(value) for value in nf.losses.hinge_embedding(jnp.array([0.25, 0.25]), jnp.array([1, -1]))]
    [0.25, 0.75]
    """
    check.number("hinge_embedding", 0, margin=margin)
    distances, target, valid = _signed("hinge_embedding", target, distances=distances)
    (margin,) = like(distances, margin)
    return nan_unless(valid, jnp.where(target > 0, distances, jax.nn.relu(margin - distances)))


@canonicalize_arguments
def soft_margin(scores: Array, target: Array) -> Array:
    """The logistic loss of a yes-or-no score, `log(1 + exp(-target * score))`, in nats.

    It is `binary_cross_entropy_with_logits` for targets of -1 and 1.

    Shapes: scores [...], target [...] of -1 or 1 -> [...]; any other target gives NaN.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.soft_margin_loss.

    >>> loss = nf.losses.soft_margin(jnp.array([0.0, -1e4]), jnp.array([1, 1]))
    >>> [round(float(value), 4) for value in loss]
    [0.6931, 10000.0]
    """
    scores, target, valid = _signed("soft_margin", target, scores=scores)
    return nan_unless(valid, jax.nn.softplus(-target * scores))


@canonicalize_arguments
def margin_ranking(first: Array, second: Array, target: Array, *, margin: Scalar = 0.0) -> Array:
    """Shortfall of a pair of scores: the first should be higher by the margin where the target is 1.

    loss = max(0, margin - target * (first - second)); where the target is -1 the second should be higher.

    Shapes: first [...], second [...], target [...] of -1 or 1 -> [...]; any other target gives NaN.
    margin: at least 0; the slope where it is just reached is 0.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.margin_ranking_loss.

    >>> first, second = jnp.array([2.0, 2.0]), jnp.array([1.5, 1.5])
    >>> [float(value) for value in nf.losses.margin_ranking(first, second, jnp.array([1, -1]), margin=1.0)]
    [0.5, 1.5]
    """
    check.number("margin_ranking", 0, margin=margin)
    check.floating("margin_ranking", first=first, second=second)
    check.same_shape("margin_ranking", first=first, second=second)
    first, target, valid = _signed("margin_ranking", target, first=first)
    second, margin = like(first, second, margin)
    return nan_unless(valid, jax.nn.relu(margin - target * (first - second)))


@canonicalize_arguments
def multiclass_margin(
    scores: Array,
    labels: Array,
    *,
    p: Scalar = 1.0,
    margin: Scalar = 1.0,
    weight: Array | Sequence[Scalar] | None = None,
    ignore_index: int | None = None,
) -> Array:
    """Shortfall of the true class's score from each other one, plus the margin: the mean over the classes.

    loss = w[y] / classes * sum over classes c other than y of max(0, margin - scores[y] + scores[c]) ** p.

    Shapes: scores [..., classes], labels [...] integers in [0, classes) -> [...].
    p: at least 1; 2 squares the shortfall.
    margin: at least 0.
    weight: one per class, [classes]; 1 by default.
    ignore_index: as in `cross_entropy`; any other label outside [0, classes) gives NaN.
    Raises: ValueError when labels.shape is not scores.shape[:-1]; TypeError when labels are not integers.
    Source: Crammer and Singer 2001, with the sum over classes of torch.nn.functional.multi_margin_loss.

    >>> round(float(nf.losses.multiclass_margin(jnp.array([0.5, 0.0, 1.0]), jnp.array(0))), 4)
    0.6667
    """
    check.number("multiclass_margin", 1, open_high=True, p=p)
    check.number("multiclass_margin", 0, margin=margin)
    x, hit, valid, ignored = class_inputs("multiclass_margin", scores, labels, ignore_index, name="scores")
    p, margin = like(x, p, margin)
    true = jnp.where(hit, x, 0).sum(-1, keepdims=True)
    short = margin - true + x
    short = jnp.where(hit, 0, short)
    loss = jnp.where(short > 0, jnp.where(short > 0, short, 1) ** p, 0).sum(-1) / x.shape[-1]
    if weight is not None:
        loss = loss * jnp.where(hit, class_weights("multiclass_margin", weight, x), 0).sum(-1)
    return mask_invalid(loss, valid, ignored)


@canonicalize_arguments
def multilabel_margin(scores: Array, target: Array, *, margin: Scalar = 1.0) -> Array:
    """Shortfall of each true label's score from that of each other label, plus the margin.

    loss = 1 / labels * sum over true labels j, other labels i of max(0, margin - scores[j] + scores[i]).

    Shapes: scores [..., labels], target [..., labels] of 0 or 1, of any type -> [...]; any other target gives NaN.
    It compares all pairs, so it takes memory for [..., labels, labels].
    margin: at least 0.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.multilabel_margin_loss, whose targets are lists of the true labels.

    >>> round(float(nf.losses.multilabel_margin(jnp.array([0.5, 0.0, 1.0]), jnp.array([1, 0, 0]))), 4)
    0.6667
    """
    check.number("multilabel_margin", 0, margin=margin)
    check.same_shape("multilabel_margin", scores=scores, target=target)
    (x,) = vector_inputs("multilabel_margin", scores=scores)
    t, margin = like(x, target, margin)
    short = jax.nn.relu(margin - x[..., :, None] + x[..., None, :])  # [..., true, other]
    pairs = (t == 1)[..., :, None] & (t == 0)[..., None, :]
    loss = jnp.where(pairs, short, 0).sum((-2, -1)) / x.shape[-1]
    return nan_unless(((t == 0) | (t == 1)).all(-1), loss)


@canonicalize_arguments
def cosine_distance(prediction: Array, target: Array, *, eps: Scalar = 1e-8) -> Array:
    """One minus the cosine of the angle between two vectors: 0 for equal direction, 2 for opposite.

    loss = 1 - (x . y) / (max(|x|, eps) * max(|y|, eps)).

    Shapes: prediction [..., features], target [..., features] -> [...].
    eps: above 0; shorter vectors count as that long, so the distance to a zero vector is 1. For float16 it is at
        least 3e-5: slopes are up to 1 / eps.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.cosine_similarity.

    >>> x, y = jnp.array([3.0, 4.0]), jnp.array([4.0, -3.0])
    >>> [round(float(nf.losses.cosine_distance(x, z)), 4) for z in (x, y, -2 * x)]
    [0.0, 1.0, 2.0]
    """
    check.number("cosine_distance", 0, open_low=True, eps=eps)
    x, y = vector_inputs("cosine_distance", prediction=prediction, target=target)
    eps = jnp.maximum(like(x, eps)[0], smallest_divisor(prediction))

    def normalize(v):
        v, power = rescale(v, (-1,))  # so that the slope, over the square, is in range too
        return v / jnp.maximum(vector_norm(v, (-1,), keepdims=True), eps / power)

    return 1 - (normalize(x) * normalize(y)).sum(-1)


@canonicalize_arguments
def cosine_embedding(first: Array, second: Array, target: Array, *, margin: Scalar = 0.0) -> Array:
    """Two vectors that should have one direction where the target is 1, and not where it is -1.

    loss = 1 - cos where the target is 1, max(0, cos - margin) where it is -1; cos is that of the angle between
    them, as in `cosine_distance`.

    Shapes: first [..., features], second [..., features], target [...] of -1 or 1 -> [...]; any other target gives
    NaN.
    margin: in [-1, 1]; vectors may be as similar as that for free. 0 to 0.5 is usual.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.cosine_embedding_loss.

    >>> x = jnp.array([[3.0, 4.0], [3.0, 4.0]])
    >>> [round(float(value), 4) for value in nf.losses.cosine_embedding(x, x, jnp.array([1, -1]), margin=0.25)]
    [0.0, 0.75]
    """
    check.number("cosine_embedding", -1, 1, margin=margin)
    check.floating("cosine_embedding", first=first, second=second)
    check.same_shape("cosine_embedding", first=first, second=second)
    check.shape("cosine_embedding", np.shape(first)[:-1], "It is one number for each pair.", target=target)
    distance = cosine_distance(first, second)
    target, margin = like(distance, target, margin)
    loss = jnp.where(target > 0, distance, jax.nn.relu(1 - distance - margin))
    return nan_unless(jnp.abs(target) == 1, loss)


@canonicalize_arguments
def triplet(
    anchor: Array,
    positive: Array,
    negative: Array,
    *,
    margin: Scalar = 1.0,
    p: Scalar = 2.0,
    swap: bool = False,
    eps: Scalar = 0.0,
) -> Array:
    """Shortfall of a triplet: the anchor should be nearer to the positive, by the margin.

    loss = max(0, |anchor - positive| - |anchor - negative| + margin), lengths in the p-norm, each with
    1e-6 ** p added under the root, so that the slope at equal points is 0.

    Shapes: anchor, positive and negative [..., features] -> [...].
    margin: at least 0.
    p: of the norm, at least 1; 2 is the Euclidean length.
    swap: whether |positive - negative| replaces |anchor - negative| where it is smaller.
    eps: at least 0, added to each difference, 1e-6 in PyTorch.
    Raises: ValueError when the shapes differ.
    Source: Balntas et al. 2016, sections 2.2 and 3.2; torch.nn.functional.triplet_margin_loss.

    >>> float(nf.losses.triplet(jnp.array([0.0]), jnp.array([3.0]), jnp.array([2.0])))
    2.0
    """
    check.number("triplet", 0, margin=margin, eps=eps)
    check.number("triplet", 1, open_high=True, p=p)
    anchor, positive, negative = vector_inputs("triplet", anchor=anchor, positive=positive, negative=negative)
    margin, power, eps = like(anchor, margin, p, eps)

    def length(v):
        small = jnp.full((*v.shape[:-1], 1), 1e-6, v.dtype)
        v = jnp.concatenate([v + eps, small], axis=-1)
        if check.is_plain(p) and p == 2:
            return vector_norm(v, (-1,))
        sizes = absolute(v)
        top = jax.lax.stop_gradient(sizes.max(-1, keepdims=True))  # so that no power leaves the range
        return top[..., 0] * ((sizes / top) ** power).sum(-1) ** (1 / power)

    to_negative = length(anchor - negative)
    to_negative = jnp.minimum(to_negative, length(positive - negative)) if swap else to_negative
    return jax.nn.relu(length(anchor - positive) - to_negative + margin)


def _signed(where: str, target: Array, **scores: Any) -> tuple[Array, Array, Array]:
    """(scores, target, valid), of one shape; valid marks the targets of -1 and 1."""
    ((name, values),) = scores.items()
    check.floating(where, **scores)
    check.same_shape(where, **{name: values, "target": target})
    values = widen(values)
    (target,) = like(values, target)
    return values, target, jnp.abs(target) == 1
