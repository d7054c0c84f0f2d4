"""Whether arithmetic on an integer hyperparameter may overflow once it is traced.

In a single run it is a Python integer, which has no largest value; in the program of a sweep it is an int32.
The intervals of all values that depend on it are propagated through a jaxpr. A value that also depends on an
unknown array is an int32 in a single run too, so it is not checked.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np


class Interval(NamedTuple):
    """The range of the elements of an array. traced: whether it depends on a hyper."""

    low: int
    high: int
    traced: bool = False

    def within(self, dtype: Any) -> bool:
        info = jnp.iinfo(dtype)
        return int(info.min) <= self.low and self.high <= int(info.max)


class _Overflow(Exception):
    """A value that depends on a hyper may not fit its dtype."""


Rule = Callable[..., tuple[int, int]]


def overflows(jaxpr: Any, ranges: Iterable[tuple[int, int] | None]) -> bool:
    """Whether a value that depends on the first inputs may overflow.

    jaxpr: a ClosedJaxpr.
    ranges: (least, greatest value) of each of the first inputs, or None for an input that is not an integer, or is
        an array in a single run too.
    """
    known = [None if ends is None else Interval(*ends, traced=True) for ends in ranges]
    if not any(known):
        return False
    try:
        _outputs(jaxpr, [*known, *[None] * (len(jaxpr.jaxpr.invars) - len(known))])
    except _Overflow:
        return True
    return False


def _outputs(jaxpr: Any, inputs: list[Interval | None]) -> list[Interval | None]:
    """The intervals of the outputs, None where they are not known. Raises: _Overflow."""
    inner, constants = (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())
    known: dict[Any, Interval | None] = dict(zip(inner.invars, inputs, strict=True))
    for var, value in zip(inner.constvars, constants, strict=False):
        known[var] = _constant(value)

    def read(var: Any) -> Interval | None:
        return _constant(var.val) if isinstance(var, jex.Literal) else known.get(var)

    for eqn in inner.eqns:
        values = [read(var) for var in eqn.invars]
        if any(value is not None for value in values) or eqn.primitive.name == "iota":
            known |= zip(eqn.outvars, _of_equation(eqn, values), strict=True)
    return [read(var) for var in inner.outvars]


def _constant(value: Any) -> Interval | None:
    dtype = getattr(value, "dtype", None) or np.result_type(type(value))
    if not jnp.issubdtype(dtype, jnp.signedinteger) and not jnp.issubdtype(dtype, jnp.bool_):
        return None
    if not np.size(value):
        return None
    array = np.asarray(value)
    return Interval(int(array.min()), int(array.max()))


def _of_equation(eqn: Any, values: list[Interval | None]) -> list[Interval | None]:
    none: list[Interval | None] = [None] * len(eqn.outvars)
    inside = _inside(eqn, values)
    if inside is not None:
        every = [_outputs(jaxpr, inputs) for jaxpr, inputs in inside]
        if eqn.primitive.name in ("scan", "while"):
            return none  # the carry of a loop is an array in a single run too
        return [_union(ends) for ends in zip(*every, strict=True)] if every else none
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if len(eqn.outvars) > 1 or not hasattr(out, "dtype"):
        return none
    if jnp.issubdtype(out.dtype, jnp.bool_):
        return [Interval(0, 1, any(v is not None and v.traced for v in values))]
    if not jnp.issubdtype(out.dtype, jnp.signedinteger):
        return none  # a float, a key, or the bits of a key
    if name in _FIRST:
        values = values[:1]
    if any(value is None for value in values):
        return none
    ends: list[Any] = values
    traced = any(value.traced for value in ends)
    if name not in _RULES:
        if traced:
            raise _Overflow
        return none
    result = Interval(*_RULES[name](eqn, *ends), traced)
    if result.within(out.dtype):
        return [result]
    if traced:
        raise _Overflow
    return none


def _inside(eqn: Any, values: list[Any]) -> list[tuple[Any, list[Any]]] | None:
    """The jaxprs that an equation calls, each with its inputs; None if it calls none."""
    params, name = eqn.params, eqn.primitive.name
    if name == "scan":
        # jax 0.12 has (constants, carry, rows) instead of three counts.
        count = params["num_consts"] if "num_consts" in params else len(params["ft_in"].unpack()[0])
        return [(params["jaxpr"], values[:count] + [None] * (len(values) - count))]
    if name == "while":
        first, second = params["cond_nconsts"], params["body_nconsts"]
        carry = [None] * (len(values) - first - second)
        return [
            (params["cond_jaxpr"], values[:first] + carry),
            (params["body_jaxpr"], values[first : first + second] + carry),
        ]
    if name == "cond":
        return [(branch, values[1:]) for branch in params["branches"]]
    called = [p for p in params.values() if isinstance(p, jex.ClosedJaxpr | jex.Jaxpr)]
    if not called:
        return None
    jaxpr = called[0]
    if len(getattr(jaxpr, "jaxpr", jaxpr).invars) != len(values):
        values = [None] * len(getattr(jaxpr, "jaxpr", jaxpr).invars)
    return [(jaxpr, values)]


def _union(intervals: Iterable[Interval | None]) -> Interval | None:
    known: list[Any] = list(intervals)
    if any(value is None for value in known):
        return None
    return Interval(*_hull(None, *known), any(value.traced for value in known))


def _hull(eqn: Any, *values: Interval) -> tuple[int, int]:
    return min(v.low for v in values), max(v.high for v in values)


def _corners(function: Callable[[int, int], int]) -> Rule:
    """The rule of an operation that is monotone in each operand: its values at the ends."""

    def rule(eqn: Any, one: Interval, other: Interval) -> tuple[int, int]:
        values = [function(a, b) for a in (one.low, one.high) for b in (other.low, other.high)]
        return min(values), max(values)

    return rule


def _power(eqn: Any, value: Interval) -> tuple[int, int]:
    exponent = eqn.params.get("y", 2)
    ends = [value.low**exponent, value.high**exponent]
    return min([*ends, 0] if value.low <= 0 <= value.high else ends), max(ends)


def _absolute(eqn: Any, value: Interval) -> tuple[int, int]:
    ends = abs(value.low), abs(value.high)
    return (0 if value.low <= 0 <= value.high else min(ends)), max(ends)


def _bits(eqn: Any, *values: Interval) -> tuple[int, int]:
    """The rule of bitwise operations: the range of as many bits."""
    if eqn.primitive.name == "and" and any(v.low == v.high >= 0 for v in values):
        return 0, min(v.high for v in values if v.low == v.high >= 0)
    limit = 2 ** max(max(abs(v.low), abs(v.high)).bit_length() for v in values)
    return (0 if all(v.low >= 0 for v in values) else -limit), limit - 1


def _shifted(eqn: Any, value: Interval, by: Interval) -> tuple[int, int]:
    if eqn.primitive.name == "shift_left":
        if not 0 <= by.low <= by.high < 64:
            raise _Overflow
        return value.low << (by.high if value.low < 0 else by.low), value.high << by.high
    if eqn.primitive.name == "shift_right_logical" and value.low < 0:
        return 0, int(jnp.iinfo(eqn.outvars[0].aval.dtype).max)
    return min(value.low, 0), max(value.high, 0)


def _summed(eqn: Any, *values: Interval) -> tuple[int, int]:
    """The rule of sums, and of sums of products: the largest number of terms."""
    shape = eqn.invars[0].aval.shape
    if eqn.primitive.name == "dot_general":
        (axes, _), _ = eqn.params["dimension_numbers"]
        low, high = _corners(lambda a, b: a * b)(eqn, *values)
        terms = math.prod(shape[axis] for axis in axes)
    else:
        low, high = values[0].low, values[0].high
        axes = eqn.params.get("axes", (eqn.params.get("axis", 0),))
        terms = math.prod(shape[axis] for axis in axes)
    return min(low, low * terms), max(high, high * terms)


def _divided(eqn: Any, one: Interval, other: Interval) -> tuple[int, int]:
    limit = max(abs(one.low), abs(one.high))
    if eqn.primitive.name == "rem":
        limit = min(limit, max(abs(other.low), abs(other.high), 1) - 1)
    return (0 if one.low >= 0 and other.low >= 0 else -limit), limit


_FIRST = ("gather", "dynamic_slice", "argmax", "argmin")  # they depend on the first operand only
_SAME = (
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "transpose",
    "slice",
    "concatenate",
    "copy",
    "copy_p",
    "convert_element_type",
    "reduce_precision",
    "reduce_max",
    "reduce_min",
    "cummax",
    "cummin",
    "rev",
    "sort",
    "pad",
    "expand_dims",
    "dynamic_slice",
    "gather",
    "clamp",
    "optimization_barrier",
    "stop_gradient",
    "device_put",
    "sharding_constraint",
    "dynamic_update_slice",
)
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_SAME, _hull),
    **dict.fromkeys(("and", "or", "xor", "not"), _bits),
    **dict.fromkeys(("shift_left", "shift_right_arithmetic", "shift_right_logical"), _shifted),
    **dict.fromkeys(("reduce_sum", "cumsum", "dot_general"), _summed),
    **dict.fromkeys(("argmax", "argmin"), lambda eqn, v: (0, 0)),
    "select_n": lambda eqn, which, *values: _hull(eqn, *values),
    "add": _corners(lambda a, b: a + b),
    "sub": _corners(lambda a, b: a - b),
    "mul": _corners(lambda a, b: a * b),
    "max": _corners(max),
    "min": _corners(min),
    "neg": lambda eqn, v: (-v.high, -v.low),
    "sign": lambda eqn, v: (-1, 1),
    "abs": _absolute,
    "integer_pow": _power,
    "square": _power,
    "div": _divided,
    "rem": _divided,
    "iota": lambda eqn: (0, max(0, eqn.params["shape"][eqn.params["dimension"]] - 1)),
}
"""(equation, intervals of its operands) -> the ends of its result, before it is cast to its dtype."""
