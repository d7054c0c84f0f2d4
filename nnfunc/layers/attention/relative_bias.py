"""The bias of the scores that depends on the distance of two positions, as in T5."""

import jax.numpy as jnp
import numpy as np

from nnfunc import check, initializers
from nnfunc.base import Initializer, Model, Out, Scalar

ROUNDING = 1e-5
"""Added before the logarithm is cut to an integer, so that a distance on the edge of a bucket is in the next one."""


def relative_bias(
    heads: int,
    *,
    buckets: int = 32,
    max_distance: Scalar = 128,
    causal: bool = False,
    weight_init: Initializer = initializers.normal(0.02),
) -> Model:
    """`bias[head, i, j] = weight[bucket(j - i), head]`: a learned number for each head and bucket of distances.

    Half of the buckets are for the distances 0, 1, 2, ... one by one, the others for ranges that grow like the
    logarithm up to max_distance; without causal, later positions have half of all buckets. While a sequence is
    generated the state holds the position.

    heads: their number.
    buckets: the rows of the table, a multiple of 4.
    max_distance: above the number of distances that have a bucket each; all from there on share the last one.
    causal: whether no position looks ahead.
    weight_init: of the table.
    Shapes: x [..., time, dim] -> bias [heads, time, time], with a cache of earlier tokens [heads, time, cache];
    weight [buckets, heads].
    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1, and its code.
    """
    where = "relative_bias"
    check.size(where, heads=heads)
    check.size(where, 4, buckets=buckets)
    if buckets % 4:
        check.fail(where, expected="buckets should be a multiple of 4", actual=buckets)
    count = buckets if causal else buckets // 2
    check.number(where, count // 2, open_low=True, open_high=True, max_distance=max_distance)

    def init(key):
        return {"weight": weight_init(key, (buckets, heads))}

    def bucket(distances: np.ndarray):
        """Integers, of j - i."""
        exact = count // 2
        size = np.maximum(-distances, 0) if causal else np.abs(distances)
        ratio = np.log(np.maximum(size, exact) / exact)
        xp = np if check.is_plain(max_distance) else jnp
        steps = xp.asarray(ratio, np.float32) / xp.log(xp.asarray(max_distance, np.float32) / exact) * (count - exact)
        large = exact + xp.asarray(steps + ROUNDING, np.int32)
        index = xp.where(size < exact, size, xp.minimum(large, count - 1))
        return index if causal else index + count * (distances > 0)

    def forward(params, x, ctx):
        time, first = x.shape[-2], ctx.state.get("position", 0)
        source = ctx.cache if ctx.state else time
        state = {} if ctx.cache is None else {"position": jnp.asarray(first + time, jnp.int32)}
        rows = jnp.asarray(ctx.cast(params)["weight"])[bucket(np.arange(1 - source, source))]  # [2 source - 1, heads]
        positions = first + jnp.arange(time, dtype=jnp.int32)[:, None]
        distances = np.arange(source, dtype=np.int32)[None] - positions  # [time, source]
        return jnp.moveaxis(rows[distances + source - 1], -1, -3), Out(state)  # [heads, time, source]

    return Model(init, forward=forward)
