"""Distillation: a student learns the probabilities of a teacher besides the labels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses
from nnfunc.base import Array, PyTree, Scalar
from nnfunc.training.objectives.class_totals import cross_entropy_totals, label_check
from nnfunc.training.objectives.objective import Objective
from nnfunc.training.objectives.objective_totals import example_mask, input_and_target, masked_total, mean_objective


def distillation(
    teacher: Callable[[PyTree], Array],
    *,
    temperature: Scalar = 2.0,
    alpha: Scalar = 0.5,
    label_smoothing: Scalar = 0.0,
    ignore_index: int | None = None,
) -> Objective:
    """A student's cross-entropy against labels, and its divergence from the probabilities of a teacher.

    loss = alpha * t^2 * KL(softmax(teacher / t) || softmax(y / t)) + (1 - alpha) * cross-entropy(y, labels), y the
    logits of the student.

    Batches are pairs (x, labels), logits [batch, ..., classes].
    teacher: x -> logits of the shape of the student's, such as `lambda x: model.apply(params, x)`; no gradient goes
        through it. In a config, `run` is the folder of the teacher's run.
    temperature: t, above 0.
    alpha: the weight of the teacher, in [0, 1].
    label_smoothing: the fraction of the labels spread over all classes, in [0, 1].
    ignore_index: the label that is left out of every mean, or None.
    Metrics: accuracy; agreement, the fraction of examples with the same most probable class as the teacher's.
    Raises: ValueError for numbers out of range, labels that are not classes, and a teacher with other outputs.
    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.

    >>> objective = nf.distillation(lambda x: jnp.stack([x[:, 0], -x[:, 0], 0 * x[:, 0]], axis=1))
    >>> task = nf.Task(nf.linear(2, 3), objective, nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.arange(4) % 3)))
    ['accuracy', 'agreement', 'loss']
    """
    where = "distillation"
    check.number(where, 0, open_low=True, temperature=temperature)
    check.number(where, 0, 1, alpha=alpha, label_smoothing=label_smoothing)
    if not callable(teacher):
        expected = "teacher should be a function x -> logits"
        check.fail(where, expected=expected, actual=check.describe(teacher), exc_type=TypeError)

    def totals(predict, batch, mask):
        x, labels = input_and_target(where, batch)
        student, logits = predict(x), jax.lax.stop_gradient(teacher(x))
        check.same_shape(where, "The teacher has the same classes.", student=student, teacher=logits)
        options: dict[str, Any] = {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
        sums = cross_entropy_totals(where, student, labels, mask, **options)
        dtype = jnp.promote_types(student.dtype, jnp.float32)
        t, weight = (jnp.asarray(value).astype(dtype) for value in (temperature, alpha))
        target = jax.nn.softmax(logits.astype(dtype) / t)
        divergence = t**2 * losses.kl_divergence(student.astype(dtype) / t, target)
        counted = example_mask(where, mask, divergence.shape)
        if ignore_index is not None and np.ndim(labels) == divergence.ndim:
            counted = counted & (check.as_int32(where, labels=labels) != jnp.asarray(ignore_index, jnp.int32))
        agree = (student.argmax(-1) == logits.argmax(-1)).astype(dtype)
        total, count = masked_total(divergence, counted)
        loss = weight * total + (1 - weight) * sums["loss"][0]
        return {"loss": (loss, count), "accuracy": sums["accuracy"], "agreement": masked_total(agree, counted)}

    return mean_objective(totals, label_check(where, ignore_index=ignore_index), "classes", ignore_index)
