"""Connectionist temporal classification: labels of a sequence without their positions in time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, canonicalize_arguments, vary_like, widen
from nnfunc.loss_math import check_classes, log_softmax, nan_unless

_IMPOSSIBLE = -1e30  # the logarithm of 0, finite so that no derivative is inf - inf


@canonicalize_arguments
def ctc(
    logits: Array,
    labels: Array,
    *,
    logit_lengths: Array | None = None,
    label_lengths: Array | None = None,
    blank: int = 0,
) -> Array:
    """Negative log-probability of a sequence of labels, over all their alignments with the frames, in nats.

    An alignment gives each frame a label or the blank; equal labels side by side count as one, and blanks as none.
    loss = -log sum over the alignments of labels, product over frames t of softmax(logits[t])[alignment[t]].

    Shapes: logits [..., time, classes], labels [..., length] integers in [0, classes) without blank -> [...].
    logit_lengths, label_lengths: integers [...], the number of frames and of labels that count; None counts all.
        The others may hold anything.
    blank: the class without a label, in [0, classes), 0 by default.
    Labels that no alignment fits, because there are too few frames, cost infinity, with a slope of 0. A label that
    is no class, or the blank, gives NaN.
    Raises: ValueError when the shapes differ, a length is longer than its axis or blank is no class; TypeError when
    labels or lengths are not integers.
    Source: Graves et al. 2006, "Connectionist temporal classification", section 4.1; the log-probabilities that
    torch.nn.functional.ctc_loss takes are logits too, and give the same loss.

    >>> logits, labels = jnp.zeros((2, 3)), jnp.array([1])  # 1 1, 1 -, - 1 are three of nine alignments
    >>> round(float(nf.losses.ctc(logits, labels)), 4)
    1.0986
    """
    check.floating("ctc", logits=logits)
    check_classes("ctc", logits)
    if np.ndim(logits) < 2:
        check.fail("ctc", expected="logits should be [..., time, classes]", actual=f"shape {np.shape(logits)}")
    *lead, time, classes = logits.shape
    labels = check.as_int32("ctc", labels=labels)
    if labels.ndim != len(lead) + 1 or labels.shape[:-1] != tuple(lead):
        expected = f"labels should be [..., length] with the leading axes {tuple(lead)} of the logits"
        check.fail("ctc", expected=expected, actual=f"shape {labels.shape}")
    check.size("ctc", 0, classes - 1, blank=blank)
    logit_lengths = _lengths("logit_lengths", logit_lengths, lead, time)
    label_lengths = _lengths("label_lengths", label_lengths, lead, labels.shape[-1])

    label_counts = _before(label_lengths, labels.shape[-1])  # [..., length]
    valid = ((labels >= 0) & (labels < classes) & (labels != blank)) | ~label_counts
    labels = jnp.where(valid & label_counts, labels, 0)
    frame_counts = _before(logit_lengths, time)  # [..., time]
    shifted, total = log_softmax(jnp.where(frame_counts[..., None], widen(logits), 0))
    log_p = jnp.maximum(shifted - total[..., None], _IMPOSSIBLE)
    of_labels = jnp.take_along_axis(log_p, labels[..., None, :], axis=-1)  # [..., time, length]
    of_blank = jnp.broadcast_to(log_p[..., blank, None], (*of_labels.shape[:-1], of_labels.shape[-1] + 1))
    # the states are blank, label, blank, label, ..., blank
    emitted = jnp.moveaxis(_interleave(of_blank, of_labels), -2, 0)  # [time, ..., 2 * length + 1]
    differs = jnp.concatenate([jnp.zeros((*lead, 1), bool), labels[..., 1:] != labels[..., :-1]], axis=-1)
    # a blank has to stand between equal labels; there may be no label at all
    may_skip = _interleave(jnp.zeros((*lead, labels.shape[-1] + 1), bool), differs[..., : labels.shape[-1]])
    states = jax.lax.broadcasted_iota(jnp.int32, emitted.shape[1:], len(lead))
    start = jnp.where(states == 0, 0.0, _IMPOSSIBLE).astype(emitted.dtype)

    def frame(log_alpha, inputs):
        emitted, counts = inputs
        from_before = _shift(log_alpha, 1)
        from_label = jnp.where(may_skip, _shift(log_alpha, 2), _IMPOSSIBLE)
        new = _logsumexp(jnp.stack([log_alpha, from_before, from_label], axis=-1)) + emitted
        return jnp.where(counts[..., None], new, log_alpha), None

    inputs = emitted, jnp.moveaxis(frame_counts, -1, 0)
    log_alpha, _ = jax.lax.scan(frame, vary_like(start, logits), inputs)
    at_end = (states == 2 * label_lengths[..., None]) | (states == 2 * label_lengths[..., None] - 1)
    log_total = _logsumexp(jnp.where(at_end, log_alpha, _IMPOSSIBLE))
    loss = jnp.where(log_total > _IMPOSSIBLE / 10, -log_total, jnp.inf)
    return nan_unless(valid.all(-1), loss)


def _lengths(name: str, lengths: Array | None, lead: list[int], most: int) -> Array:
    """The lengths [...] as int32; all of them `most` for None."""
    if lengths is None:
        return jnp.full(lead, most, jnp.int32)
    named: dict[str, Any] = {name: lengths}
    check.integers("ctc", **named)
    check.shape("ctc", lead, "It is one number for each sequence.", **named)
    check.within("ctc", 0, most, **named)
    return check.as_int32("ctc", **named)


def _before(lengths: Array, size: int) -> Array:
    """Booleans [..., size], true for the first `lengths`."""
    return jax.lax.broadcasted_iota(jnp.int32, (*lengths.shape, size), lengths.ndim) < lengths[..., None]


def _interleave(even: Array, odd: Array) -> Array:
    """even[0], odd[0], even[1], ..., along the last axis, of which even has one more."""
    pairs = jnp.stack([even[..., :-1], odd], axis=-1)  # [..., length, 2]
    return jnp.concatenate([pairs.reshape(*odd.shape[:-1], 2 * odd.shape[-1]), even[..., -1:]], axis=-1)


def _shift(x: Array, by: int) -> Array:
    """x[..., i - by], impossible at the start."""
    widths = [(0, 0)] * (x.ndim - 1) + [(by, 0)]
    return jnp.pad(x, widths, constant_values=_IMPOSSIBLE)[..., : x.shape[-1]]


def _logsumexp(x: Array) -> Array:
    """The logarithm of the sum of exp over the last axis, of finite values."""
    top = jax.lax.stop_gradient(x.max(-1, keepdims=True))
    return top[..., 0] + jnp.log(jnp.exp(x - top).sum(-1))
