"""A linear map written as an einsum of x and a weight of any axes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Initializer, Model, fold
from nnfunc.layers.linear import INIT_HINT, add_bias


class _Equation(NamedTuple):
    """The letters of an equation "x,weight->y"; an ellipsis in x and y stands for leading axes."""

    x: str
    weight: str
    y: str


def einsum_linear(
    equation: str,
    shape: Sequence[int],
    *,
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Model:
    """A linear map of several axes at once: `y = einsum(equation, x, weight) + bias`.

    equation: the axes as letters, "x,weight->y": "td,dhk->thk" maps the last axis of [..., t, d] to heads and their
        channels. Leading axes of x need no letters.
    shape: the sizes of the weight's axes, in the order of the equation.
    bias: whether to add one, with the axes of the weight that are in y.
    weight_init: of the weight, with a fan-in of all axes that are summed over.
    bias_init: of the bias, zeros by default.
    Shapes: x [..., axes of x] -> y [..., axes of y]; weight [*shape]; bias [the axes of the weight that are in y].
    Raises: ValueError when the equation does not fit shape, or x the equation.
    Source: flax.linen.Einsum, keras.layers.EinsumDense.

    >>> model = nf.einsum_linear("d,dhk->hk", (8, 2, 4))
    >>> params = model.init(jax.random.key(0))
    >>> params["bias"].shape, model.apply(params, jnp.ones((5, 3, 8))).shape
    ((2, 4), (5, 3, 2, 4))
    """
    where = "einsum_linear"
    axes, shape = _parse(where, equation), tuple(shape)
    if len(shape) != len(axes.weight):
        expected = f"shape should have a size for each of the axes {axes.weight!r} of the weight"
        check.fail(where, expected=expected, actual=shape)
    for letter, size in zip(axes.weight, shape, strict=True):
        check.size(where, **{f"shape[{letter}]": size})
    sizes = dict(zip(axes.weight, (int(size) for size in shape), strict=True))
    summed = [letter for letter in axes.weight if letter not in axes.y]
    others = [letter for letter in axes.weight if letter in axes.y]
    of_bias = [letter for letter in axes.y if letter in sizes]
    bias_shape = tuple(sizes[letter] for letter in of_bias)

    def init(key):
        fans = [math.prod(sizes[letter] for letter in part) for part in (summed, others)]
        # [in, out] -> [*summed, *others] -> the axes in the order of the equation
        weight = weight_init(key, tuple(fans)).reshape([sizes[letter] for letter in summed + others])
        params = {"weight": weight.transpose([(summed + others).index(letter) for letter in axes.weight])}
        return params | {"bias": bias_init(fold(key, "bias"), bias_shape)} if bias else params

    def apply(params, x):
        check.floating(where, x=x)
        last = x.shape[max(x.ndim - len(axes.x), 0) :]
        if len(last) < len(axes.x) or any(sizes.get(a, n) != n for a, n in zip(axes.x, last, strict=True)):
            expected = "x should be [" + ", ".join(["...", *(f"{a}={sizes[a]}" if a in sizes else a for a in axes.x)])
            check.fail(where, expected=expected + "]", actual=f"shape {x.shape}")
        check.shape(where, shape, INIT_HINT, weight=params["weight"])
        y = jnp.einsum(f"...{axes.x},{axes.weight}->...{axes.y}", x, params["weight"])
        if not bias:
            return y
        spread = params["bias"].reshape([sizes.get(letter, 1) for letter in axes.y])  # 1 for axes that are those of x
        return add_bias(y, spread)

    return Model(init, apply)


def _parse(where: str, equation: str) -> _Equation:
    """The parts of the equation, without ellipses at their start."""
    if not isinstance(equation, str):
        check.fail(where, expected="equation should be text", actual=check.describe(equation), exc_type=TypeError)
    inputs, arrow, y = equation.replace(" ", "").partition("->")
    x, comma, weight = inputs.partition(",")
    x, y = x.removeprefix("..."), y.removeprefix("...")
    parts = _Equation(x, weight, y)
    distinct = all(len(set(part)) == len(part) for part in parts)
    if not (arrow and comma and all(part.isalpha() for part in (x, weight)) and (y.isalpha() or not y) and distinct):
        expected = "equation should be 'x,weight->y' with a letter for each axis, such as 'td,dhk->thk'"
        check.fail(where, expected=expected, actual=repr(equation))
    unknown = set(y) - set(x + weight)
    if unknown:
        expected = "each axis of y should be one of x or of the weight"
        check.fail(where, expected=expected, actual=f"{sorted(unknown)} in {equation!r}")
    if set(x) - set(weight + y):
        expected = "an axis that is summed over should be one of x and of the weight"
        check.fail(where, expected=expected, actual=f"{sorted(set(x) - set(weight + y))} in {equation!r}")
    if set(weight) - set(x + y):
        expected = "each axis of the weight should be one of x or of y"
        check.fail(where, expected=expected, actual=f"{sorted(set(weight) - set(x + y))} in {equation!r}")
    return parts
