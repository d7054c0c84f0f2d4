"""The program of a model in few primitives, which the converters to other formats know.

jax2onnx replaces functions of jax.numpy while it traces, and each of its replacements takes a part of their
arguments. So a model is traced before, to the primitives of jax.lax, and `evaluate` runs these with some changes:
calls are inlined, what depends on weights alone is computed, loops over layers are written out, and primitives that
a converter does not have are written in others.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from nnfunc import check
from nnfunc.jaxprs import called, run_equations, run_scan, scan_operands

FOLDED = 4096
"""The number of values up to which a result of constants is computed although it is larger than they are."""


def evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], *, unroll: bool = False) -> list[Any]:
    """The outputs of a program for its constants and arguments. unroll: whether loops over time are written out too."""

    def run(eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
        layer = _layer(eqn)
        with jax.named_scope(layer) if layer else contextlib.nullcontext():  # which errors of converters name
            return _evaluate_equation(eqn, inputs, unroll)

    return run_equations(jaxpr, consts, args, run, _needed_equations(jaxpr))


def _needed_equations(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Those that an output depends on: not what a layer would report, such as the losses of a router."""
    needed = {variable for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    result = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            result.append(eqn)
            needed |= {variable for variable in eqn.invars if not isinstance(variable, Literal)}
    return result[::-1]


def primitives(jaxpr: Jaxpr) -> dict[str, str]:
    """The primitives of a program, those of inner ones included, with the path of the first layer that has each."""
    result: dict[str, str] = {}
    for eqn in jaxpr.eqns:
        result.setdefault(eqn.primitive.name, _layer(eqn))
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                for name, path in primitives(inner).items():
                    result.setdefault(name, path or _layer(eqn))
    return result


def _shape(variable: Any) -> tuple[Any, ...]:
    return getattr(variable.aval, "shape", ())


def _layer(eqn: JaxprEqn) -> str:
    """The path of the layer that an equation belongs to, empty outside of one."""
    return str(eqn.source_info.name_stack)


def _evaluate_equation(eqn: JaxprEqn, inputs: list[Any], unroll: bool) -> list[Any]:
    name = eqn.primitive.name
    if program := called(eqn):
        return evaluate(*program, inputs, unroll=unroll)
    if name == "scan":
        return _scan(eqn, inputs, unroll)
    if _is_constant(eqn, inputs):
        with jax.ensure_compile_time_eval():
            outputs = eqn.primitive.bind(*inputs, **eqn.params)
    else:
        outputs = REWRITES.get(name, eqn.primitive.bind)(*inputs, **eqn.params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def _is_constant(eqn: JaxprEqn, inputs: list[Any]) -> bool:
    """Whether the outputs follow from constants, and are not much larger than these."""
    shapes = [_shape(variable) for variable in eqn.outvars]
    if any(map(check.is_traced, inputs)) or not all(isinstance(n, int) for shape in shapes for n in shape):
        return False
    return sum(map(math.prod, shapes)) <= max(FOLDED, sum(map(np.size, inputs)))


def _scan(eqn: JaxprEqn, inputs: list[Any], unroll: bool) -> list[Any]:
    """A loop over constants, such as the weights of layers, written out; another loop from first to last."""
    params, body = eqn.params, eqn.params["jaxpr"]
    consts, carry, xs = scan_operands(eqn, inputs)
    run = partial(evaluate, body.jaxpr, body.consts, unroll=unroll)
    if unroll or (xs and not any(map(check.is_traced, xs))):
        carry, rows = run_scan(eqn, inputs, lambda _, args: run(args), _row)
        return [*carry, *(jnp.stack(ys) for ys in zip(*rows, strict=True))]

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = run([*consts, *carry, *xs])
        return outputs[: len(carry)], outputs[len(carry) :]

    flip = (lambda values: [lax.rev(x, (0,)) for x in values]) if params["reverse"] else list
    carry, ys = lax.scan(step, carry, flip(xs), length=params["length"])
    return [*carry, *flip(ys)]


def _row(x: Any, i: int) -> Any:
    return lax.index_in_dim(x, i, keepdims=False) if check.is_traced(x) else np.asarray(x)[i]


def _reduce_precision(x: Any, *, exponent_bits: int, mantissa_bits: int) -> Any:
    """Without bits of the mantissa it is a power of two, and which of the two neighbours makes no difference."""
    if mantissa_bits:
        return lax.reduce_precision_p.bind(x, exponent_bits=exponent_bits, mantissa_bits=mantissa_bits)
    factor = np.asarray(1 / math.log(2), x.dtype)
    return lax.exp2(lax.floor(lax.mul(lax.log(x), lax.full_like(x, factor))))


def _pad(x: Any, value: Any, *, padding_config: Sequence[tuple[int, int, int]]) -> Any:
    """Blocks of the value beside x: jax2onnx does not pad an array with a symbolic axis."""
    if any(low < 0 or high < 0 or inner for low, high, inner in padding_config):
        return lax.pad_p.bind(x, value, padding_config=padding_config)
    for axis, (low, high, _) in enumerate(padding_config):
        before, after = (lax.full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value, x.dtype) for n in (low, high))
        parts = [*([before] if low else []), x, *([after] if high else [])]
        x = lax.concatenate(parts, axis) if len(parts) > 1 else x
    return x


def _reduce_window(name: str, reduce: Callable[[Any, Any], Any], identity: Callable[[Any], Any]) -> Any:
    """The reduction of windows as one of strided slices, an axis after the other: jax2onnx pools over all axes."""

    def rewrite(x: Any, **params: Any) -> Any:
        if set(params["base_dilation"]) != {1}:
            return getattr(lax, f"{name}_p").bind(x, **params)
        pads = [(low, high, 0) for low, high in params["padding"]]
        x = _pad(x, identity(x.dtype), padding_config=pads)
        sizes = zip(params["window_dimensions"], params["window_strides"], params["window_dilation"], strict=True)
        for axis, (size, stride, dilation) in enumerate(sizes):
            if (size, stride) != (1, 1):
                end = x.shape[axis] - (size - 1) * dilation
                starts = [i * dilation for i in range(size)]
                parts = [lax.slice_in_dim(x, start, start + end, stride, axis) for start in starts]
                x = parts[0]
                for part in parts[1:]:
                    x = reduce(x, part)
        return x

    return rewrite


REWRITES: dict[str, Callable[..., Any]] = {
    "pad": _pad,
    "reduce_precision": _reduce_precision,
    "reduce_window_max": _reduce_window("reduce_window_max", lax.max, lambda dtype: np.asarray(-np.inf, dtype)),
    "reduce_window_sum": _reduce_window("reduce_window_sum", lax.add, lambda dtype: np.zeros((), dtype)),
}
"""Primitives in terms of others."""
