"""Floating-point operations of a function, counted from the shapes in its jaxpr.

XLA's estimate counts the body of a loop once; this count multiplies it by the length of the loop.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

_FREE = {
    "broadcast_in_dim",
    "reshape",
    "transpose",
    "squeeze",
    "slice",
    "dynamic_slice",
    "concatenate",
    "dynamic_update_slice",
    "gather",
    "convert_element_type",
    "copy",
    "iota",
    "pad",
    "rev",
    "select_n",
    "stop_gradient",
    "bitcast_convert_type",
    "random_bits",
    "random_wrap",
    "random_unwrap",
    "random_fold_in",
    "threefry2x32",
    "shift_right_logical",
    "shift_left",
    "or",
    "and",
    "xor",
    "not",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "expand_dims",
    "split",
    "optimization_barrier",
    "name",
}


def count(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of `function(*args)`; args may be arrays or `jax.ShapeDtypeStruct`.

    A multiply-add of a matrix product or a convolution counts 2; other arithmetic counts 1 for each output
    value, and a reduction, also as a product with ones, 1 for each input value. Copies and comparisons are free.
    The body of a scan counts once per iteration, that of a `while` loop once, because its length is unknown; of
    the branches of `cond` the most expensive one counts.

    >>> nf.flops.count(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48
    """
    return of(jax.make_jaxpr(function)(*args))


def of(closed: Any, dtype: Any = None) -> int:
    """The FLOPs of a traced function, as in `count`.

    closed: a closed jaxpr, such as `jax.jit(f).trace(x).jaxpr`.
    dtype: count only operations whose first input has it; None for all.
    """
    return _of(closed.jaxpr, None if dtype is None else jax.numpy.dtype(dtype))


def primitives(closed: Any) -> set[str]:
    """The names of all operations of a traced function.

    closed: a closed jaxpr.

    >>> sorted(primitives(jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) + 1)(1.0)))
    ['add', 'jit', 'sin']
    """
    names, waiting = set(), [closed.jaxpr]
    while waiting:
        for eqn in waiting.pop().eqns:
            names.add(eqn.primitive.name)
            waiting += inner_jaxprs(eqn)
    return names


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """The jaxprs of an operation, such as the body of a loop. eqn: the operation."""
    for param in eqn.params.values():
        for item in param if isinstance(param, tuple | list) else (param,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def _of(jaxpr: Any, dtype: Any = None) -> int:
    ones: set[int] = set()  # rows and columns of ones, with which `nnfunc.sums` multiplies
    total = 0
    for equation in jaxpr.eqns:
        value = getattr(equation.invars[0], "val", None) if equation.primitive.name == "broadcast_in_dim" else None
        is_number = getattr(value, "dtype", None) != jax.dtypes.float0  # the tangents of integers
        if is_number and value == 1 and 1 in equation.outvars[0].aval.shape:
            ones.add(id(equation.outvars[0]))
        total += _equation(equation, ones, dtype)
    return total


def _equation(eqn: Any, ones: set[int], dtype: Any) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        return params["length"] * _of(params["jaxpr"].jaxpr, dtype)
    if name == "cond":
        return max(_of(branch.jaxpr, dtype) for branch in params["branches"])
    inner = [params[k] for k in ("jaxpr", "call_jaxpr", "body_jaxpr") if k in params]
    if inner:
        return sum(_of(getattr(j, "jaxpr", j), dtype) for j in inner)
    if dtype is not None and not (eqn.invars and getattr(eqn.invars[0].aval, "dtype", None) == dtype):
        return 0
    size = sum(math.prod(v.aval.shape) for v in eqn.outvars if hasattr(v.aval, "shape"))
    if name == "dot_general":
        ((contracted, _), _) = params["dimension_numbers"]
        terms = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        if any(id(v) in ones for v in eqn.invars):  # a sum, or a copy
            return size * terms if terms > 1 else 0
        return 2 * size * terms
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_axis = params["dimension_numbers"].rhs_spec[0]
        return 2 * size * math.prod(kernel) // kernel[out_axis]
    if name.startswith("reduce_") or name.startswith("arg"):
        return sum(math.prod(v.aval.shape) for v in eqn.invars)
    return 0 if name in _FREE else size
