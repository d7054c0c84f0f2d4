"""Tables of learned vectors."""

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Initializer, Model, canonical
from nnfunc.layers.linear import wide

__all__ = ["embedding"]


def embedding(
    count: int, dim: int, *, weight_init: Initializer = initializers.normal(0.02)
) -> Model:
    """The learned vector of each id: `y = weight[x]`.

    An id outside [0, count) gives NaN, so that a run with a wrong vocabulary stops instead of
    learning nonsense. The initial deviation 0.02 is that of GPT-2 and BERT.
    Shapes: x [...] integers -> y [..., dim]; weight [count, dim].
    Raises: TypeError when x is not of an integer type.

    >>> model = nf.embedding(10, 4)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])).shape
    (1, 3, 4)
    """
    check.size("embedding", count=count, dim=dim)

    def init(key):
        return {"weight": weight_init(key, (count, dim))}

    def apply(params, x):
        check.integers("embedding", "They are ids; numbers go through nf.linear.", x=x)
        ids = canonical(x)
        ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids  # int8 cannot hold count
        ids = jnp.where(ids < 0, count, ids)  # negative ids would count from the end
        table = jnp.asarray(
            params["weight"]
        )  # its gradient, a sum over places, in float32 at least
        return wide(table).at[ids].get(mode="fill", fill_value=jnp.nan).astype(table.dtype)

    return Model(init, apply)
