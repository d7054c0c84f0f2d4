"""Losses: `(prediction, target) -> one value per example`; the caller takes the mean.

Losses over classes reduce the last axis; losses of numbers (`mse`, `binary_cross_entropy`, ...)
keep the shape of their inputs, one value per number. Nothing is broadcast: shapes are checked.

All of them compute in float32 (float64 stays float64). Values and gradients are finite at logits of
+-1e4, and every number (label_smoothing, gamma, delta, ...) may be traced. Logits may be infinite: a
certain and right prediction costs 0, a certain and wrong one infinity, gradients are those of the limit,
and several logits of +inf share the probability. Values that no shape check can catch give NaN rather
than a plausible number: a label that is no class, a probability outside [0, 1], logits that are all
-inf. An empty batch gives an empty array.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar, canonicalize_arguments, widen
from nnfunc.calls import explain_calls
from nnfunc.ctc_loss import ctc
from nnfunc.loss_math import (
    absolute,
    at_least,
    binary_inputs,
    class_inputs,
    class_weights,
    difference,
    distribution_inputs,
    like,
    log_softmax,
    mask_invalid,
    nan_unless,
    product,
    smallest_divisor,
)
from nnfunc.margin_losses import (
    cosine_distance,
    cosine_embedding,
    hinge,
    hinge_embedding,
    margin_ranking,
    multiclass_margin,
    multilabel_margin,
    soft_margin,
    triplet,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_focal",
    "cosine_distance",
    "cosine_embedding",
    "cross_entropy",
    "cross_entropy_dense",
    "ctc",
    "focal",
    "gaussian_nll",
    "hinge",
    "hinge_embedding",
    "huber",
    "kl_divergence",
    "mae",
    "margin_ranking",
    "masked_mean",
    "mse",
    "multiclass_margin",
    "multilabel_margin",
    "nll",
    "pinball",
    "poisson_nll",
    "smooth_l1",
    "soft_margin",
    "triplet",
]

_SMALLEST = 1e-12  # for smaller p the loss is that of 1e-12, with the slope at 1e-12


@canonicalize_arguments
def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: Scalar = 0.0,
    weight: Array | Sequence[Scalar] | None = None,
    ignore_index: int | None = None,
) -> Array:
    """Negative log-probability of the true class, in nats.

    loss = (1 - label_smoothing) * w[y] * -log p[y] + label_smoothing * mean over classes c of w[c] * -log p[c],
    with p = softmax(logits).

    Shapes: logits [..., classes], labels [...] integers in [0, classes) -> [...].
    label_smoothing: in [0, 1].
    weight: one per class, [classes]; 1 by default.
    ignore_index: the label of positions that do not count, -100 in many corpora: loss and gradient are 0 there,
        whatever the logits hold. For the mean over the positions that count: `masked_mean(cross_entropy(...,
        ignore_index=-100), labels != -100)`. Any other label outside [0, classes) gives NaN, also one that int32
        cannot hold. Logits of -inf switch a class off.
    Raises: ValueError when labels.shape is not logits.shape[:-1]; TypeError when labels are not integers.
    Source: the convention of torch.nn.functional.cross_entropy(reduction="none"); label smoothing is Szegedy et al.
    2016, arXiv:1512.00567, section 7.

    >>> loss = nf.losses.cross_entropy(jnp.array([[0.0, 0.0], [1e4, -1e4]]), jnp.array([0, 0]))
    >>> [round(float(value), 4) for value in loss]
    [0.6931, 0.0]
    """
    check.number("cross_entropy", 0, 1, label_smoothing=label_smoothing)
    logits, hit, valid, ignored = class_inputs("cross_entropy", logits, labels, ignore_index)
    shifted, total = log_softmax(logits)
    picked = jnp.where(hit, shifted, 0).sum(-1)
    if weight is None:
        true = total - picked
        if check.is_plain(label_smoothing) and label_smoothing == 0:  # one pass over the logits less
            return mask_invalid(true, valid, ignored)
        uniform = total - shifted.mean(-1)
    else:
        weight = class_weights("cross_entropy", weight, logits)
        true = product(jnp.where(hit, weight, 0).sum(-1), total - picked)
        uniform = product(weight, total[..., None] - shifted).mean(-1)
    (smoothing,) = like(logits, label_smoothing)
    return mask_invalid(product(1 - smoothing, true) + product(smoothing, uniform), valid, ignored)


@canonicalize_arguments
def cross_entropy_dense(
    logits: Array,
    probabilities: Array,
    *,
    label_smoothing: Scalar = 0.0,
    weight: Array | Sequence[Scalar] | None = None,
) -> Array:
    """Cross-entropy with a whole distribution as the target (mixup, distillation), in nats.

    loss = sum over classes c of w[c] * q[c] * -log p[c], p = softmax(logits) and
    q = (1 - label_smoothing) * probabilities + label_smoothing / classes.

    Shapes: logits [..., classes], probabilities [..., classes], which should add up to 1 -> [...].
    label_smoothing: in [0, 1].
    weight: one per class, [classes]; 1 by default.
    Raises: ValueError when the shapes differ.
    Source: the convention of torch.nn.functional.cross_entropy with probabilities.

    >>> target = jnp.array([0.5, 0.5])
    >>> round(float(nf.losses.cross_entropy_dense(jnp.array([0.0, 0.0]), target)), 4)
    0.6931
    """
    check.number("cross_entropy_dense", 0, 1, label_smoothing=label_smoothing)
    logits, target = distribution_inputs("cross_entropy_dense", logits, probabilities)
    shifted, total = log_softmax(logits)
    (label_smoothing,) = like(logits, label_smoothing)
    target = (1 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    if weight is not None:
        target = target * class_weights("cross_entropy_dense", weight, logits)
    return product(target, total[..., None] - shifted).sum(-1)


@canonicalize_arguments
def nll(
    log_probabilities: Array,
    labels: Array,
    *,
    weight: Array | Sequence[Scalar] | None = None,
    ignore_index: int | None = None,
) -> Array:
    """Negative log-probability of the true class from log-probabilities as they stand, in nats.

    loss = -w[y] * log_probabilities[y]. For logits `cross_entropy` is shorter.

    Shapes: log_probabilities [..., classes], such as jax.nn.log_softmax makes them, labels [...] integers in
    [0, classes) -> [...]. That they add up to 1 is not checked.
    weight: one per class, [classes]; 1 by default.
    ignore_index: as in `cross_entropy`; any other label outside [0, classes) gives NaN.
    Raises: ValueError when labels.shape is not log_probabilities.shape[:-1]; TypeError when labels are not
    integers.
    Source: torch.nn.functional.nll_loss(reduction="none").

    >>> float(nf.losses.nll(jnp.array([-0.25, -1.5]), jnp.array(1)))
    1.5
    """
    log_p, hit, valid, ignored = class_inputs("nll", log_probabilities, labels, ignore_index, name="log_probabilities")
    loss = -jnp.where(hit, log_p, 0).sum(-1)
    if weight is not None:
        loss = product(jnp.where(hit, class_weights("nll", weight, log_p), 0).sum(-1), loss)
    return mask_invalid(loss, valid, ignored)


@canonicalize_arguments
def focal(
    logits: Array,
    labels: Array,
    *,
    gamma: Scalar = 2.0,
    alpha: Scalar | Sequence[Scalar] | None = None,
    ignore_index: int | None = None,
) -> Array:
    """Cross-entropy with less weight on examples that are already well classified, in nats.

    loss = alpha[y] * (1 - p[y]) ** gamma * -log p[y], p = softmax(logits).

    Shapes: logits [..., classes], labels [...] integers in [0, classes) -> [...].
    gamma: at least 0; 0 is `cross_entropy`.
    alpha: one number, or one per class [classes]; 1 by default.
    ignore_index: as in `cross_entropy`; any other label outside [0, classes) gives NaN.
    Raises: ValueError when labels.shape is not logits.shape[:-1], or there is only one class.
    Source: Lin et al. 2017, arXiv:1708.02002, section 3.

    >>> round(float(nf.losses.focal(jnp.array([0.0, 0.0]), jnp.array(1), gamma=1.0)), 4)
    0.3466
    """
    check.number("focal", 0, gamma=gamma)
    logits, hit, valid, ignored = class_inputs("focal", logits, labels, ignore_index)
    if logits.shape[-1] < 2:
        hint = "For two classes and one logit: binary_focal."
        check.fail("focal", expected="logits should have at least 2 classes", actual=logits.shape, hint=hint)
    shifted, total = log_softmax(logits)
    (gamma,) = like(logits, gamma)
    # log(1 - p[y]) from the other logits: exact where p[y] rounds to 1, and no slope of 0 ** gamma
    others = jnp.where(hit | (shifted == -jnp.inf), -1e30, shifted)
    log_missed = jax.nn.logsumexp(others, axis=-1) - total
    true = total - jnp.where(hit, shifted, 0).sum(-1)
    loss = product(jnp.exp(gamma * log_missed), true)
    if alpha is not None and not isinstance(alpha, Sequence) and np.ndim(alpha) == 0:
        loss = loss * like(logits, alpha)[0]
    elif alpha is not None:
        alpha = class_weights("focal", alpha, logits, name="alpha")
        loss = loss * jnp.where(hit, alpha, 0).sum(-1)
    return mask_invalid(loss, valid, ignored)


@canonicalize_arguments
def binary_cross_entropy(probabilities: Array, target: Array, *, label_smoothing: Scalar = 0.0) -> Array:
    """Cross-entropy of a yes-or-no answer given as a probability, in nats.

    loss = -t * log(p) - (1 - t) * log(1 - p), t = (1 - label_smoothing) * target + label_smoothing / 2.
    For logits `binary_cross_entropy_with_logits` is more exact.

    Shapes: probabilities [...] in [0, 1], target [...] in [0, 1], of any type -> [...].
    label_smoothing: in [0, 1]. At p of exactly 0 and 1 the loss is at most 27.6 (-log 1e-12) and its slope at most
        1e12 (30000 for float16), of the right sign. Values outside [0, 1] give NaN.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.binary_cross_entropy, but for the bound (there 100, and slope 1e12).

    >>> loss = nf.losses.binary_cross_entropy(jnp.array([0.5, 1.0]), jnp.array([1, 0]))
    >>> [round(float(value), 4) for value in loss]
    [0.6931, 27.631]
    """
    check.number("binary_cross_entropy", 0, 1, label_smoothing=label_smoothing)
    check.floating("binary_cross_entropy", probabilities=probabilities)
    check.same_shape("binary_cross_entropy", probabilities=probabilities, target=target)
    smallest = max(_SMALLEST, smallest_divisor(probabilities))
    p = widen(probabilities)
    t, label_smoothing = like(p, target, label_smoothing)
    valid = (p >= 0) & (p <= 1) & (t >= 0) & (t <= 1)
    t = (1 - label_smoothing) * t + label_smoothing / 2
    loss = -t * jnp.log(at_least(p, smallest)) - (1 - t) * jnp.log(at_least(1 - p, smallest))
    return nan_unless(valid, loss)


@canonicalize_arguments
def binary_cross_entropy_with_logits(
    logits: Array, target: Array, *, label_smoothing: Scalar = 0.0, pos_weight: Scalar | Sequence[Scalar] = 1.0
) -> Array:
    """Cross-entropy of a yes-or-no answer given as a logit, in nats.

    loss = -pos_weight * t * log(sigmoid(x)) - (1 - t) * log(sigmoid(-x)),
    t = (1 - label_smoothing) * target + label_smoothing / 2.

    Shapes: logits [...], target [...] in [0, 1], of any type -> [...]; other targets give NaN.
    label_smoothing: in [0, 1].
    pos_weight: at least 0; negatives / positives balances the two. One number, or one per label, [labels], the last
        axis of the logits.
    Raises: ValueError when the shapes differ.
    Source: the convention of torch.nn.functional.binary_cross_entropy_with_logits.

    >>> loss = nf.losses.binary_cross_entropy_with_logits(jnp.array([0.0, -1e4]), jnp.array([1, 1]))
    >>> [round(float(value), 4) for value in loss]
    [0.6931, 10000.0]
    """
    where = "binary_cross_entropy_with_logits"
    check.number(where, 0, 1, label_smoothing=label_smoothing)
    x, t, valid = binary_inputs(where, logits, target)
    if isinstance(pos_weight, Sequence) or np.ndim(pos_weight) > 0:
        check.at_least_0(where, pos_weight=pos_weight)
        pos_weight = class_weights(where, pos_weight, x, name="pos_weight")
    else:
        check.number(where, 0, pos_weight=pos_weight)
    label_smoothing, pos_weight = like(x, label_smoothing, pos_weight)
    t = (1 - label_smoothing) * t + label_smoothing / 2
    positive = product(pos_weight * t, jax.nn.softplus(-x))
    loss = positive + product(1 - t, jax.nn.softplus(x))
    return nan_unless(valid, loss)


@canonicalize_arguments
def binary_focal(logits: Array, target: Array, *, gamma: Scalar = 2.0, alpha: Scalar | None = None) -> Array:
    """Binary cross-entropy with less weight on examples that are already well classified, in nats.

    loss = -a * t * (1 - p) ** gamma * log(p) - (1 - a) * (1 - t) * p ** gamma * log(1 - p), with
    p = sigmoid(logits) and a = alpha; without alpha both a and 1 - a are 1.

    Shapes: logits [...], target [...] in [0, 1], of any type -> [...]; other targets give NaN.
    gamma: at least 0; 0 is `binary_cross_entropy_with_logits`.
    alpha: in [0, 1], 0.25 in the paper.
    Raises: ValueError when the shapes differ.
    Source: Lin et al. 2017, arXiv:1708.02002, equation 5.

    >>> round(float(nf.losses.binary_focal(jnp.array(0.0), jnp.array(1), gamma=1.0)), 4)
    0.3466
    """
    check.number("binary_focal", 0, gamma=gamma)
    if alpha is not None:
        check.number("binary_focal", 0, 1, alpha=alpha)
    x, t, valid = binary_inputs("binary_focal", logits, target)
    (gamma,) = like(x, gamma)
    minus_log_p, minus_log_q = jax.nn.softplus(-x), jax.nn.softplus(x)  # q = 1 - p
    positive = t * jnp.exp(-product(gamma, minus_log_q))
    negative = (1 - t) * jnp.exp(-product(gamma, minus_log_p))
    if alpha is not None:
        (alpha,) = like(x, alpha)
        positive, negative = alpha * positive, (1 - alpha) * negative
    loss = product(positive, minus_log_p) + product(negative, minus_log_q)
    return nan_unless(valid, loss)


@canonicalize_arguments
def mse(prediction: Array, target: Array) -> Array:
    """Squared error of each number, `(prediction - target)^2`; its mean is the mean squared error.

    Shapes: prediction [...], target [...] -> [...].
    Raises: ValueError when the shapes differ: [batch] against [batch, 1] too.

    >>> [float(value) for value in nf.losses.mse(jnp.array([1.0, 3.0]), jnp.array([2.0, 1.0]))]
    [1.0, 4.0]
    """
    return jnp.square(difference("mse", prediction, target))


@canonicalize_arguments
def mae(prediction: Array, target: Array) -> Array:
    """Absolute error of each number, `|prediction - target|`; its mean is the mean absolute error.

    Shapes: prediction [...], target [...] -> [...]. The slope at 0 is 0.
    Raises: ValueError when the shapes differ: [batch] against [batch, 1] too.

    >>> [float(value) for value in nf.losses.mae(jnp.array([1.0, 3.0]), jnp.array([2.0, 1.0]))]
    [1.0, 2.0]
    """
    return absolute(difference("mae", prediction, target))


@canonicalize_arguments
def huber(prediction: Array, target: Array, *, delta: Scalar = 1.0) -> Array:
    """Half the squared error up to delta, a straight line beyond: outliers pull with slope delta.

    loss = d^2 / 2 where |d| <= delta, else delta * (|d| - delta / 2), d = prediction - target.

    Shapes: prediction [...], target [...] -> [...].
    delta: above 0; infinity gives half of `mse`.
    Raises: ValueError when the shapes differ.
    Source: Huber 1964; torch.nn.functional.huber_loss.

    >>> [float(value) for value in nf.losses.huber(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]))]
    [0.5, 2.5]
    """
    check.number("huber", 0, open_low=True, delta=delta)
    d = difference("huber", prediction, target)
    (delta,) = like(d, delta)
    near = jnp.abs(d) <= delta
    slope = jnp.where(near, 0, delta)  # so that the line is finite at delta = inf
    square = jnp.square(jnp.where(near, d, 0))  # an infinite d has a slope
    return jnp.where(near, 0.5 * square, slope * (absolute(d) - 0.5 * slope))


@canonicalize_arguments
def smooth_l1(prediction: Array, target: Array, *, beta: Scalar = 1.0) -> Array:
    """The absolute error, rounded off within beta of 0: `huber` divided by its delta.

    loss = d^2 / (2 * beta) where |d| < beta, else |d| - beta / 2, d = prediction - target.

    Shapes: prediction [...], target [...] -> [...].
    beta: at least 0; 0 is `mae`.
    Raises: ValueError when the shapes differ.
    Source: Girshick 2015, arXiv:1504.08083, equation 3; torch.nn.functional.smooth_l1_loss.

    >>> loss = nf.losses.smooth_l1(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]), beta=2.0)
    >>> [float(value) for value in loss]
    [0.25, 2.0]
    """
    check.number("smooth_l1", 0, beta=beta)
    d = difference("smooth_l1", prediction, target)
    (beta,) = like(d, beta)
    divisor = jnp.where(beta > 0, beta, 1)
    near = jnp.abs(d) < beta
    square = jnp.square(jnp.where(near, d, 0))
    return jnp.where(near, 0.5 * square / divisor, absolute(d) - 0.5 * beta)


@canonicalize_arguments
def pinball(prediction: Array, target: Array, *, quantile: Scalar | Array = 0.5) -> Array:
    """Error of a predicted quantile: its mean is smallest where that fraction of the targets is below the prediction.

    loss = quantile * d where d >= 0, else (quantile - 1) * d, d = target - prediction.

    Shapes: prediction [...], target [...] -> [...].
    quantile: in [0, 1], one number, or one for each entry of the last axis; 0.5 gives half of `mae`.
    Raises: ValueError when the shapes differ.
    Source: Koenker and Bassett 1978; sklearn.metrics.mean_pinball_loss.

    >>> loss = nf.losses.pinball(jnp.array([1.0, 3.0]), jnp.array([2.0, 2.0]), quantile=0.9)
    >>> [round(float(value), 4) for value in loss]
    [0.9, 0.1]
    """
    if np.ndim(quantile) == 0:
        check.number("pinball", 0, 1, quantile=quantile)
    d = difference("pinball", target, prediction)
    level = jnp.asarray(quantile).astype(d.dtype)
    level = jax.lax.broadcast_to_rank(level, d.ndim)
    return jnp.where(d >= 0, level * d, (level - 1) * d)


@canonicalize_arguments
def kl_divergence(
    logits: Array, probabilities: Array, *, log_probabilities: bool = False, per_class: bool = False
) -> Array:
    """How far the predicted distribution is from the target, KL(target || prediction), in nats.

    loss = sum over classes c of q[c] * (log q[c] - log p[c]), p = softmax(logits), q =
    probabilities; 0 * log 0 is 0. The slope by the logits is p * sum(q) - q.

    Shapes: logits [..., classes], probabilities [..., classes], which should add up to 1 -> [...].
    A negative probability gives NaN.
    log_probabilities: whether `logits` are log p as they stand, such as jax.nn.log_softmax makes them: the slope is
        then -q, as in PyTorch. Without it log-probabilities give the same loss, for they are logits too, but the
        slope p - q; through the log_softmax that made them, both come to p - q.
    per_class: whether to return the terms of the sum, [..., classes], instead of the sum.
    Raises: ValueError when the shapes differ.
    Source: Kullback and Leibler 1951; the direction of torch.nn.functional.kl_div.

    >>> round(float(nf.losses.kl_divergence(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0]))), 4)
    0.6931
    """
    logits, target = distribution_inputs("kl_divergence", logits, probabilities)
    shifted, total = log_softmax(logits)
    log_target = jnp.log(jnp.where(target == 0, 1, target))
    minus_log_p = -logits if log_probabilities else total[..., None] - shifted
    terms = product(target, log_target + minus_log_p)
    return terms if per_class else terms.sum(-1)


@canonicalize_arguments
def poisson_nll(
    log_rate: Array,
    counts: Array,
    *,
    full: bool | Literal["stirling"] = False,
    log_input: bool = True,
    eps: Scalar = 1e-8,
) -> Array:
    """Negative log-likelihood of counts under a Poisson distribution, in nats.

    loss = exp(log_rate) - counts * log_rate, plus log(counts!) when full.
    Above log_rate = 60, exp continues as its tangent, so that loss and slope stay finite.
    Without log_input, loss = rate - counts * log(rate + eps).

    Shapes: log_rate [...], counts [...] of at least 0, of any type -> [...]; negative counts give
    NaN.
    full: whether to add the term that no gradient sees, for a true likelihood: exact by log-gamma, or, as
        "stirling", counts * log(counts) - counts + log(2 pi counts) / 2 for counts above 1, which is PyTorch's.
    log_input: False takes the first argument as the rate itself, of at least 0; negative rates give NaN.
    eps: at least 0, added to a rate before the logarithm.
    Raises: ValueError when the shapes differ.
    Source: torch.nn.functional.poisson_nll_loss.

    >>> round(float(nf.losses.poisson_nll(jnp.array(0.0), jnp.array(3))), 4)
    1.0
    >>> round(float(nf.losses.poisson_nll(jnp.array(2.0), jnp.array(3), log_input=False)), 4)
    -0.0794
    """
    if not isinstance(full, bool):
        check.choice("poisson_nll", ("stirling",), full=full)
    check.number("poisson_nll", 0, eps=eps)
    check.floating("poisson_nll", log_rate=log_rate)
    check.same_shape("poisson_nll", log_rate=log_rate, counts=counts)
    x = widen(log_rate)
    counts, eps = like(x, counts, eps)
    valid = counts >= 0
    if log_input:
        rate = jnp.exp(jnp.where(x < 60, x, 60))
        loss = rate * jnp.where(x < 60, 1, x - 59)
        loss = loss - jnp.where(x == jnp.inf, 0, product(counts, x))  # exp(x) is the larger
    else:
        valid &= x >= 0
        zero = x + eps <= 0
        log_rate = jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, x + eps)))
        loss = x - product(counts, log_rate)
    if full == "stirling":
        safe = jnp.where(counts > 1, counts, 1)
        stirling = safe * jnp.log(safe) - safe + 0.5 * jnp.log(2 * np.pi * safe)
        loss = loss + jnp.where(counts > 1, stirling, 0)
    elif full:
        loss = loss + jax.scipy.special.gammaln(counts + 1)
    return nan_unless(valid, loss)


@canonicalize_arguments
def gaussian_nll(prediction: tuple[Array, Array], target: Array, *, floor: Scalar = 1e-6, full: bool = False) -> Array:
    """Negative log-likelihood of numbers under a normal distribution of predicted width, in nats.

    loss = (log(v) + (target - mean)^2 / v) / 2, v = max(variance, floor), plus log(2 pi) / 2 when
    full.

    prediction: the pair (mean, variance); make the variance by softplus or exp.
    Shapes: mean [...], variance [...] of at least 0, target [...] -> [...]; negative variance gives NaN.
    floor: above 0; below it the slope is that at the floor, so a variance of 0 can grow again.
    full: whether to add the term that no gradient sees, for a true likelihood.
    Raises: ValueError when the shapes differ; TypeError when prediction is not a pair.
    Source: Nix and Weigend 1994; torch.nn.functional.gaussian_nll_loss.

    >>> mean, variance = jnp.array([0.0, 0.0]), jnp.array([1.0, 4.0])
    >>> loss = nf.losses.gaussian_nll((mean, variance), jnp.array([2.0, 2.0]))
    >>> [round(float(value), 4) for value in loss]
    [2.0, 1.1931]
    """
    check.number("gaussian_nll", 0, open_low=True, floor=floor)
    if not isinstance(prediction, tuple | list) or len(prediction) != 2:
        expected, actual = "prediction should be a pair (mean, variance)", check.describe(prediction)
        check.fail("gaussian_nll", expected=expected, actual=actual, exc_type=TypeError)
    mean, variance = prediction
    check.floating("gaussian_nll", mean=mean, variance=variance, target=target)
    check.same_shape("gaussian_nll", mean=mean, variance=variance, target=target)
    mean = widen(mean)
    variance, target, floor = like(mean, variance, target, floor)
    v = at_least(variance, floor)
    error = target - mean
    loss = 0.5 * (jnp.log(v) + error * (error / v))  # the square alone may be beyond float32
    if full:
        loss = loss + 0.5 * np.log(2 * np.pi).item()
    return nan_unless(variance >= 0, loss)


@canonicalize_arguments
def masked_mean(values: Array, mask: Array) -> Array:
    """The mean of the values where mask is true; 0 where it is true nowhere.

    Shapes: values [...] floats, mask [...] booleans -> []. Masked values may be NaN.
    Raises: ValueError when the shapes differ; TypeError when mask is not boolean.

    >>> labels = jnp.array([1, -100])
    >>> loss = nf.losses.cross_entropy(jnp.zeros((2, 4)), labels, ignore_index=-100)
    >>> round(float(nf.losses.masked_mean(loss, labels != -100)), 4)
    1.3863
    """
    check.floating("masked_mean", values=values)
    if getattr(mask, "dtype", None) != np.bool_:
        check.fail("masked_mean", expected="mask should hold booleans", actual=check.describe(mask), exc_type=TypeError)
    check.same_shape("masked_mean", values=values, mask=mask)
    values = widen(values)
    counted = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return jnp.where(mask, values, 0).sum() / counted


explain_calls(__name__)
