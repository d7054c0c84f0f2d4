"""The two calls of a model with a cache."""

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Context, Layer, Params, PyTree, as_model, canonicalize, resolve_state


def prefill(
    model: Layer, params: Params, x: PyTree, cache: int, *, state: PyTree | None = None
) -> tuple[PyTree, PyTree]:
    """The first call of a generation: `y, state = prefill(model, params, x, cache)`.

    y is that of `model.apply`; state has the cache for later calls of `decode`.
    Shapes: x [batch, time, ...], the sequences from their start.
    model, params: of a model with a cache, or any other.
    cache: the number of positions that the cache can hold, those of x included.
    state: running statistics of training, as for `apply`.
    Raises: ValueError when x has more than `cache` positions.

    >>> model = nf.serial(nf.embedding(10, 4), nf.linear(4, 10))
    >>> params = model.init(jax.random.key(0))
    >>> y, state = nf.generation.prefill(model, params, jnp.array([[1, 2, 3]]), 8)
    >>> y, state = nf.generation.decode(model, params, jnp.array([[4]]), state, 8)
    >>> y.shape
    (1, 1, 10)
    """
    check.size("prefill", cache=cache)
    for leaf in jax.tree.leaves(x):
        if np.ndim(leaf) >= 2 and np.shape(leaf)[1] > cache:
            expected = f"x should have at most cache={cache} positions"
            check.fail("prefill", expected=expected, actual=f"shape {np.shape(leaf)}")
    model = as_model(model, where="prefill")
    state = resolve_state(model, state, "prefill")
    params, x = canonicalize((params, x))
    y, out = model.forward(params, x, Context(state=state, cache=cache))
    return y, out.state


def decode(model: Layer, params: Params, x: PyTree, state: PyTree, cache: int) -> tuple[PyTree, PyTree]:
    """A call after `prefill`: `y, state = decode(model, params, x, state, cache)`.

    Shapes: x [batch, new, ...], one or more positions; the new state has the structure, shapes and dtypes of
    `state`.
    model, params, cache: as for `prefill`.
    state: of the call before. There is no check that the total number of positions is at most cache.

    >>> model = nf.rnn_lm(5, dim=4)
    >>> params = model.init(jax.random.key(0))
    >>> y, cache = nf.generation.prefill(model, params, jnp.array([[1, 2]]), 8)
    >>> y, cache = nf.generation.decode(model, params, jnp.array([[3]]), cache, 8)
    >>> y.shape
    (1, 1, 5)
    """
    check.size("decode", cache=cache)
    ctx = Context(state=state, cache=cache)
    params, x = canonicalize((params, x))
    y, out = as_model(model, where="decode").forward(params, x, ctx)
    return y, out.state
