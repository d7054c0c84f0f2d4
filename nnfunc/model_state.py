"""The state of models: shapes and dtypes that stay the same, and values that stay in their trace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.array_types import PyTree, match_dtype
from nnfunc.context import Context
from nnfunc.errors import NnfuncError


def reads_values(error: Exception) -> bool:
    """Whether an error says that a layer read the value of an array, which has none while shapes are followed."""
    error_types = (
        jax.errors.ConcretizationTypeError,
        jax.errors.NonConcreteBooleanIndexError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    )
    # Python's own errors, of a method or format that only arrays have, name JAX's tracers, and its own traced arrays
    text = str(error)
    return isinstance(error, error_types) or (
        ("Tracer" in text or "traced array" in text) and not isinstance(error, NnfuncError)
    )


def runs_eagerly(error: Exception, *trees: PyTree) -> bool:
    """Whether a layer that read its values, which is this error, can have them: outside of jit, from these arrays."""
    return reads_values(error) and not any(map(check.is_traced, jax.tree.leaves(trees)))


def trace_state() -> Any:
    """What tells whether two calls belong to the same trace: equal in one, other inside `jax.vmap` and the like."""
    from jax.extend.core import get_opaque_trace_state  # `import jax` does not bring it

    return get_opaque_trace_state()


def check_unchanged_state(where: str, state: PyTree, ctx: Context) -> None:
    """Refuse state that changes inside a transformation of a flow or an objective: it could not leave the trace.

    where: the child, for the error.
    state: its new state; buffers that are the same arrays pass.
    ctx: of the call.
    """
    new, old = jax.tree.leaves(state), jax.tree.leaves(ctx.state)
    changed = len(new) != len(old) or any(a is not b for a, b in zip(new, old, strict=True))
    if changed and (ctx.train or ctx.cache is not None):
        problem = "it keeps state, and is called inside a transformation (jax.vmap, jax.lax.scan, jax.checkpoint)"
        hint = "Call it on all values at once, use nf.repeat or nf.remat, or a layer without state."
        check.fail(where, f"{problem}, which cannot hand the new state on.", hint=hint)


def match_state(new: PyTree, old: PyTree) -> PyTree:
    """The model's new state with the dtypes of the old one, so that it can be carried by a scan.

    Raises: InvalidValueError when the structure or a shape differs.
    """
    check_new_state("model", new, old)
    return jax.tree.map(match_dtype, new, old)


def check_new_state(where: str, new: PyTree, old: PyTree) -> None:
    """Refuse a new state of another structure, with other shapes, or with floats for integers.

    where: the layer.
    new, old: the states.
    """
    expected, actual = (jax.tree.map(np.shape, tree) for tree in (old, new))
    if expected != actual:
        expected = f"a layer's new state should have the shapes of its init_state, {expected}"
        check.fail(where, expected=expected, actual=actual, hint="Return nf.Out(state=...), ctx.state if unchanged.")
    for before, after in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        before, after = jax.dtypes.result_type(before), jax.dtypes.result_type(after)
        if jnp.issubdtype(after, jnp.inexact) and not jnp.issubdtype(before, jnp.inexact):
            expected = f"a state that starts as {before} should stay {before}"
            check.fail(where, expected=expected, actual=f"{after}", hint="Start with floats, such as jnp.zeros(()).")
