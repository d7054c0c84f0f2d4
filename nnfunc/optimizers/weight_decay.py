"""Weight decay, and which parameters decay."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from nnfunc import check
from nnfunc.base import Array, Scalar
from nnfunc.optimizers.optimizer import checked_at_init
from nnfunc.paths import Leaves, leaves_mask, values_by_pattern, where_on

Decay = Scalar | dict[str, Scalar]
"""A weight decay, or one for each path pattern: the first that fits a leaf decides."""


def decayed(
    where: str, weight_decay: Decay, decay_on: Leaves, number: Callable[[Scalar], Array]
) -> optax.GradientTransformation:
    """Adds weight_decay * parameter to the updates of the chosen leaves.

    where: the optimizer's name, for errors.
    decay_on: which leaves.
    number: makes an array of a number.
    """

    def decay_of(params):
        if isinstance(weight_decay, Mapping):
            each = {pattern: number(value) for pattern, value in weight_decay.items()}
            return values_by_pattern(f"{where}: weight_decay", params, each, None)
        on, same = leaves_mask(f"{where}: decay_on", params, decay_on, by_layer=True), number(weight_decay)
        return jax.tree.map(lambda on: where_on(on, same, 0 if np.ndim(on) else None), on)

    def decay(updates, params):
        if check.is_plain(weight_decay) and weight_decay == 0:
            decay_of(params)  # for its errors
            return updates
        add = lambda update, param, size: update if size is None else update + size * param
        return jax.tree.map(add, updates, params, decay_of(params))

    inner = optax.stateless(decay)
    return optax.GradientTransformation(checked_at_init(inner.init, decay_of), inner.update)


def check_decay(where: str, weight_decay: Decay, decay_on: Leaves) -> None:
    """where: the optimizer that errors name. weight_decay: at least 0. decay_on: not beside decays by pattern."""
    if not isinstance(weight_decay, Mapping):
        check.number(where, 0, weight_decay=weight_decay)
        return
    check_by_pattern(where, "weight_decay", weight_decay)
    if decay_on != "matrices":
        expected, actual = "decay_on should be left out where weight_decay is by pattern", check.describe(decay_on)
        check.fail(where, expected=expected, actual=actual, hint="Give those leaves a decay of 0.")


def check_by_pattern(where: str, name: str, numbers: Mapping[str, Scalar]) -> None:
    """Each number of a dict by path pattern is at least 0.

    where, name: the optimizer and its argument, for errors.
    numbers: by path pattern.
    """
    named: dict[str, Any] = {f"{name} of {pattern!r}": value for pattern, value in numbers.items()}
    check.number(where, 0, **named)
