"""Rotary frequencies for sequences longer than those of the first training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Scalar

RotaryScaling = Mapping[str, str | bool | float | Sequence[float] | None]
"""The name of a method and its numbers, such as {"name": "linear", "factor": 4.0}."""


class Method(NamedTuple):
    """The numbers that a method needs, and those that it may have, with their defaults."""

    needed: tuple[str, ...]
    optional: dict[str, Any] = {}


METHODS = {
    "linear": Method(("factor",)),
    "dynamic": Method(("factor", "length")),
    "yarn": Method(("factor", "length"), {"fast": 32.0, "slow": 1.0, "amplitude": None, "truncate": True}),
    "llama3": Method(("factor", "length", "low", "high")),
    "longrope": Method(("factor", "length", "short", "long"), {"amplitude": None}),
}


def check_scaling(where: str, scaling: Mapping[str, Any] | None, dim: int) -> None:
    """Raise unless the scaling names a method and has its numbers. dim: the number of channels to rotate."""
    if scaling is None:
        return
    if not isinstance(scaling, Mapping) or "name" not in scaling:
        expected, hint = (
            "rotary_scaling should be a table with a name",
            'For example {"name": "linear", "factor": 4.0}.',
        )
        check.fail(where, expected=expected, actual=check.describe(scaling), hint=hint, exc_type=TypeError)
    check.choice(where, METHODS, rotary_scaling=scaling["name"])
    method = METHODS[scaling["name"]]
    names = {*method.needed, *method.optional, "name"}
    for name in {*method.needed} - {*scaling}:
        check.fail(where, f"rotary_scaling {scaling['name']!r} needs {name!r}, got {sorted(scaling)}.")
    for name in {*scaling} - names:
        check.fail(where, f"rotary_scaling {scaling['name']!r} has no {name!r}{check.nearest(name, names)}")
    numbers = {name: value for name, value in scaling.items() if name in ("factor", "length", "fast", "slow")}
    check.number(where, 0, open_low=True, **numbers)
    for name in {"short", "long"} & {*scaling}:
        if len(scaling[name]) != dim // 2:
            check.fail(where, expected=f"{name} should have {dim // 2} numbers", actual=len(scaling[name]))


def scale_frequencies(
    frequencies: Array, base: Scalar, scaling: Mapping[str, Any], length: Array
) -> tuple[Array, Array | float]:
    """The frequencies of a longer context, and the factor of the rotated vectors.

    frequencies: base^(-2i / dim), [dim / 2].
    scaling: as `check_scaling` takes it; its length is the context of the first training, its factor how many times
        longer the new one is.
    length: of the sequence so far.
    Source: arXiv:2306.15595 (linear), arXiv:2309.00071 (dynamic, YaRN), arXiv:2407.21783 (Llama 3),
    arXiv:2402.13753 (LongRoPE); where they leave a choice, that of modeling_rope_utils.py in transformers 5.24.
    """
    method = METHODS[scaling["name"]]
    numbers = method.optional | dict(scaling)
    factor, first, amplitude = numbers["factor"], numbers.get("length", 1), numbers.get("amplitude")
    dtype, dim = frequencies.dtype, 2 * frequencies.shape[-1]
    length = length.astype(dtype)

    def as_array(value: Any) -> Array:
        return jnp.asarray(value, dtype)

    factor, first, base = map(as_array, (factor, first, base))
    if scaling["name"] == "linear":
        return frequencies / factor, 1.0
    if scaling["name"] == "dynamic":
        longest = jnp.maximum(length, first)
        stretch = factor * longest / first - (factor - 1)  # of the base, to the power of dim / (dim - 2)
        exponents = jnp.arange(dim // 2, dtype=dtype) * (2 / max(dim - 2, 1))
        return frequencies * stretch**-exponents, 1.0
    if scaling["name"] == "llama3":
        turns = first * frequencies / (2 * math.pi)  # within the first context
        low, high = as_array(numbers["low"]), as_array(numbers["high"])
        unchanged = jnp.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (unchanged + (1 - unchanged) / factor), 1.0
    if scaling["name"] == "yarn":
        fast, slow = (
            dim * jnp.log(first / (as_array(numbers[name]) * 2 * math.pi)) / (2 * jnp.log(base))
            for name in ("fast", "slow")
        )
        if numbers["truncate"]:
            fast, slow = jnp.floor(fast), jnp.ceil(slow)
        fast, slow = jnp.maximum(fast, 0), jnp.minimum(slow, dim - 1)
        width = jnp.where(fast == slow, 0.001, slow - fast)
        slowed = jnp.clip((jnp.arange(dim // 2, dtype=dtype) - fast) / width, 0, 1)
        default = jnp.where(factor <= 1, 1.0, 0.1 * jnp.log(factor) + 1.0)
        return frequencies * (1 - slowed + slowed / factor), default if amplitude is None else as_array(amplitude)
    divisors = jnp.where(length > first, as_array(numbers["long"]), as_array(numbers["short"]))
    default = jnp.sqrt(1 + jnp.log(jnp.maximum(factor, 1)) / jnp.log(first))
    return frequencies / divisors, default if amplitude is None else as_array(amplitude)
