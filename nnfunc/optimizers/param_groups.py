"""Groups of parameters by path pattern: with other learning rates, frozen, or trained from some step on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import Array, Params, PyTree, Scalar
from nnfunc.errors import PatternError
from nnfunc.optimizers.optimizer import Optimizer, as_optimizer, wide_type, wrapped
from nnfunc.optimizers.weight_decay import check_by_pattern
from nnfunc.paths import fill_missing, keep_where, values_by_pattern, where_on


class GroupsState(NamedTuple):
    """inner: the inner optimizer's state, without frozen leaves. step: updates so far."""

    inner: PyTree
    step: Array


def groups(
    inner: Any,
    *,
    rates: dict[str, Scalar | Sequence[Scalar]] = {},  # noqa: B006  nothing writes to it
    freeze: tuple[str, ...] | dict[str, Scalar | Sequence[Scalar]] = (),
) -> Optimizer:
    """Another learning rate for some parameters, or none, by path pattern.

    inner: the optimizer of all parameters.
    rates: factors of the learning rate, {"head/*": 10.0, "**/bias": 2.0}. The first pattern that matches a leaf
        decides; other leaves have the factor 1. Decay that is scaled by the learning rate has the factor, too.
    A number after the name of a `repeat` is one of its layers: {"blocks/3/**": 0.1, "blocks/**": 0.5}. The factor
    of a `repeat` may also be an array or a list, with one number for each layer: {"blocks/**": [0.1, 0.5, 1.0]}.
    freeze: patterns of leaves that never change, not even by decay. `inner` does not see them: they have no
        moments, do not count in the norm that its `clip` limits, and its patterns cannot name them. Their gradients
        are not read, so a program that does not use them elsewhere does not compute them.
    Or {pattern: step}: leaves that change from that step on (gradual unfreezing; inf is never); an array or a list
    has a step for each layer of a `repeat`. Until then `inner` sees their gradients like all others: they count in
    its norm and update the moments, so that the first step of these leaves is no larger than those after it.
    Raises: TypeError when inner is no optimizer; ValueError when a factor is below 0, and in init when a pattern
    fits no leaf or only such that patterns before it decide, or an array has another number than layers.
    Source: Howard and Ruder 2018, arXiv:1801.06146, sections 3.2 and 3.3.

    >>> optimizer = nf.optimizers.groups(nf.optimizers.sgd(1.0), rates={"head": 2.0}, freeze=("body",))
    >>> params = {"body": jnp.ones(1), "head": jnp.ones(1)}
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> updates["body"].tolist(), updates["head"].tolist()
    ([0.0], [-2.0])
    """
    inner = as_optimizer(inner, where="groups")
    later = freeze if isinstance(freeze, Mapping) else {}
    never = () if isinstance(freeze, Mapping) else paths.as_patterns(freeze, where="groups: freeze")
    for name, numbers in {"rates": rates, "freeze": later}.items():
        if not isinstance(numbers, Mapping):
            expected, actual = f"{name} should be a dict by pattern", check.describe(numbers)
            check.fail("groups", expected=expected, actual=actual, exc_type=TypeError)
        for pattern, number in numbers.items():
            row: Any = number
            for one in row if isinstance(row, list | tuple) or np.ndim(row) else [row]:
                check_by_pattern("groups", name, {pattern: one})

    def by_leaf(name, params, numbers, other_layers):
        """The number of each leaf, or an array that broadcasts along its axis of layers; None without one."""
        arrays = {pattern: jnp.asarray(value, wide_type(params)) for pattern, value in numbers.items()}
        return values_by_pattern(f"groups: {name}", params, arrays, None, other_layers=other_layers)

    def moving(params):
        """Where leaves and layers never move, and which leaves move at least in part."""
        frozen = paths.mask(params, never, where="groups: freeze")
        return frozen, jax.tree.map(lambda fixed: fixed is not True, frozen)

    def init(params):
        _, on = moving(params)
        by_leaf("rates", params, rates, 1)  # a pattern that matches nothing fails here
        by_leaf("freeze", params, later, 0)
        with _hidden(never, params):
            state = inner.init(keep_where(params, on))
        return GroupsState(state, jnp.zeros((), jnp.int32))

    def update(grads, state, params, extra):
        (frozen, on), dtype = moving(params), wide_type(params)
        grads = jax.tree.map(lambda fixed, grad: where_on(fixed, jnp.zeros_like(grad), grad), frozen, grads)
        factors = by_leaf("rates", params, rates, 1)
        starts = by_leaf("freeze", params, later, 0)
        due = lambda start: jnp.asarray(state.step, dtype) >= start

        def scale(whole, factor, start):
            """The rate_scale of a leaf: that of the caller, times the leaf's factor, 0 before its start."""
            product = jnp.ones((), dtype) if whole is None else jnp.asarray(whole, dtype)
            product = product if factor is None else product * factor
            return product if start is None else jnp.where(due(start), product, 0)

        reported = {name: value for name, value in extra.items() if name != "gradient_norm" or not never}
        if rates or later or "rate_scale" in extra:
            around = reported.pop("rate_scale", None)
            if jax.tree.structure(around) in (jax.tree.structure(0), jax.tree.structure(None)):
                around = jax.tree.map(lambda _: around, params)
            scales = jax.tree.map(scale, around, factors, starts, is_leaf=lambda x: x is None)
            reported["rate_scale"] = keep_where(scales, on)
        with _hidden(never, params):
            updates, inner_state = inner.update(keep_where(grads, on), state.inner, keep_where(params, on), **reported)

        def still(update, start):
            return update if start is None else jnp.where(due(start), update, 0)

        updates = jax.tree.map(still, fill_missing(params, updates), starts)
        return updates, GroupsState(inner_state, state.step + 1)

    return wrapped("groups", inner, init, update, frozen=never)


@contextmanager
def _hidden(never: tuple[str, ...], params: Params) -> Iterator[None]:
    """Add a hint to the error of a pattern of the inner optimizer that only frozen leaves match."""
    try:
        yield
    except PatternError as error:
        matched = paths.match_params(never, paths.flatten(params), where="groups: freeze")
        hidden = [path for path, on in matched.items() if on is True]
        if any(paths.matches(error.pattern, path) for path in hidden):
            error.hint = f"{error.hint} groups hides the leaves that it freezes, {never}, from this optimizer.".lstrip()
        raise
