"""What each step of a loop computes from its parameters alone, computed once before the loop.

XLA does not do this on a CPU for weights that are slices of a stack, as those of `nf.repeat` are: each step then copies
all of them before its products.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from nnfunc.device_memory import tree_bytes
from nnfunc.jaxprs import called, run_equations, run_scan, scan_operands

SMALL = 4096
"""The bytes up to which a result is computed before the loop although it is larger than its inputs."""
LAYERS = 64
"""Loops over more layers than this are not written out."""


class Known:
    """A value that does not change from step to step, in contrast to one that does. value: the array."""

    def __init__(self, value: Any):
        self.value = value


def hoist(function: Callable[..., Any], params: Any, *args: Any) -> Callable[..., Any]:
    """The function (*args) -> function(params, *args), of which what depends on params alone is computed now.

    Loops over layers, whose parameters are stacked, are written out.
    function: pure.
    params: arrays.
    args: arrays or their shapes, of the later calls.
    """
    leaves, treedef = jax.tree.flatten(params)

    def flat(leaves, *args):
        return function(jax.tree.unflatten(treedef, leaves), *args)

    closed, out = jax.make_jaxpr(flat, return_shape=True)(leaves, *args)
    known = [Known(leaf) for leaf in leaves]
    count = len(closed.jaxpr.invars) - len(known)
    computed: list[Any] = []
    consts = [Known(const) for const in closed.consts]
    _evaluate(closed.jaxpr, consts, [*known, *[None] * count], computed)

    def run(*args):
        outputs = _evaluate(closed.jaxpr, consts, [*known, *jax.tree.leaves(args)], iter(computed))
        return jax.tree.unflatten(jax.tree.structure(out), map(_value, outputs))

    return run


def _value(value: Any) -> Any:
    return value.value if isinstance(value, Known) else value


def _evaluate(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], computed: list[Any] | Iterator[Any]
) -> list[Any]:
    """The outputs of a program: before the loop those that are `Known`, None for the others; in the loop all.

    computed: the known results in their order. Before the loop they are appended, in the loop they are taken from
        it.
    """
    return run_equations(jaxpr, consts, args, lambda eqn, inputs: _evaluate_equation(eqn, inputs, computed))


def _evaluate_equation(eqn: JaxprEqn, inputs: list[Any], computed: list[Any] | Iterator[Any]) -> list[Any]:
    if program := called(eqn):
        inner, consts = program
        return _evaluate(inner, [Known(const) for const in consts], inputs, computed)
    if eqn.primitive.name == "scan" and _is_over_layers(eqn, inputs):
        return _write_out(eqn, inputs, computed)
    if not _is_hoisted(eqn, inputs):
        if isinstance(computed, list):
            return [None] * len(eqn.outvars)
        return _bind(eqn, inputs)
    if not isinstance(computed, list):
        return [Known(next(computed)) for _ in eqn.outvars]
    outputs = _bind(eqn, inputs)
    computed += outputs
    return [Known(output) for output in outputs]


def _bind(eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
    outputs = eqn.primitive.bind(*map(_value, inputs), **eqn.params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _is_hoisted(eqn: JaxprEqn, inputs: list[Any]) -> bool:
    """Whether an equation has known inputs only, and outputs that are not much larger than these."""
    arrays = [x for x, v in zip(inputs, eqn.invars, strict=True) if not isinstance(v, Literal)]
    if not arrays or eqn.effects or not all(isinstance(x, Known) for x in arrays):
        return False
    if eqn.primitive.name == "transpose":  # products read a transposed matrix as it is
        return False
    sizes = [tree_bytes(v.aval) for v in eqn.outvars]
    return sum(sizes) <= max(SMALL, sum(tree_bytes(x.value) for x in arrays))


def _is_over_layers(eqn: JaxprEqn, inputs: list[Any]) -> bool:
    """Whether a scan has known arrays over its steps, as the parameters of layers are."""
    xs = scan_operands(eqn, inputs)[2]
    known = sum(tree_bytes(x.value) for x in xs if isinstance(x, Known))
    return known > SMALL and eqn.params["length"] <= LAYERS


def _write_out(eqn: JaxprEqn, inputs: list[Any], computed: list[Any] | Iterator[Any]) -> list[Any]:
    """The outputs of a scan, step by step."""
    body = eqn.params["jaxpr"]
    consts = [Known(const) for const in body.consts]
    carry, rows = run_scan(
        eqn, inputs, lambda _, args: _evaluate(body.jaxpr, consts, args, computed), lambda x, i: _row(x, i, computed)
    )
    if isinstance(computed, list):
        return [*carry, *[None] * (len(eqn.outvars) - len(carry))]
    return [*carry, *(jax.numpy.stack([*map(_value, ys)]) for ys in zip(*rows, strict=True))]


def _row(x: Any, i: int, computed: list[Any] | Iterator[Any]) -> Any:
    if not isinstance(x, Known):
        return None if x is None else lax.index_in_dim(x, i, keepdims=False)
    if not isinstance(computed, list):
        return Known(next(computed))
    computed.append(lax.index_in_dim(x.value, i, keepdims=False))
    return Known(computed[-1])
