"""Attention by `jax.nn.dot_product_attention`, and the choice of when to use it."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar
from nnfunc.layers.attention.masks import allowed_places, flat, for_heads, some, zero_nonfinite_padding

Implementation = Literal["plain", "xla", "cudnn"]


def choose(platform: str, q: Array, k: Array, v: Array, wanted: dict[str, Any], capability: float) -> Implementation:
    """Which implementation computes an `attend` on this platform; wanted: its other arguments.

    capability: the GPU's compute capability as a number, 9.0; 0 when it is not one of NVIDIA's.
    """
    if platform != "gpu":
        return "plain"
    if capability >= 8 and unfit("cudnn", q, k, v, wanted) is None:
        return "cudnn"
    return "xla" if unfit("xla", q, k, v, wanted) is None else "plain"


def unfit(implementation: Implementation, q: Array, k: Array, v: Array, wanted: dict[str, Any]) -> str | None:
    """What an implementation cannot do of what is wanted; None when it can do all."""
    given = {name for name, value in wanted.items() if value is not None and value is not False}
    if implementation == "plain":
        return None
    if given & {"soft_cap", "dropout"}:
        return " and ".join(sorted(given & {"soft_cap", "dropout"}))
    if v.shape[-1] != q.shape[-1] or q.size == 0 or k.size == 0:
        return f"values of shape {v.shape} for queries of shape {q.shape}"
    if implementation == "xla":
        return None
    time, source = q.shape[-3], k.shape[-3]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"the type {q.dtype}"
    if q.shape[-1] > 128 or q.shape[-1] % 8:
        return f"a head_dim of {q.shape[-1]}"
    if given & {"bias", "slopes", "start"}:
        return " and ".join(sorted(given & {"bias", "slopes", "start"}))
    if wanted["scale"] is not None and not check.is_plain(wanted["scale"]):
        return "a traced scale"
    if "causal" in given and time != source:
        return f"causal=True for {time} queries and {source} keys"
    window = wanted["window"]
    if window is not None and not ("causal" in given and isinstance(window, int | np.integer)):
        return "a window that is traced or not causal"
    shared = given & {"mask", "lengths"}
    if shared and jax.__version_info__ < (0, 11, 2):
        return f"{' and '.join(sorted(shared))} before jax 0.11.2, whose vmap of it fails"
    if "mask" in given and (time % 2 or source % 2):
        return f"a mask for an odd number of queries or keys, {time} and {source}"
    return None


def capability_here() -> float:
    """The compute capability of the first GPU, 0 when it has none."""
    try:
        return float(getattr(jax.devices()[0], "compute_capability", "0"))
    except ValueError:  # gfx90a
        return 0.0


def xla(q: Array, k: Array, v: Array, added: Array | None, allowed: Array | None, scale: Scalar | None) -> Array:
    """`jax.nn.dot_product_attention`, which gives a query without keys their mean: zeros instead."""
    four = [x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)]
    bias, mask = flat(added, q), flat(allowed, q)
    settings: dict[str, Any] = {"bias": bias, "mask": mask, "scale": scale}
    y = jax.nn.dot_product_attention(*four, **settings, implementation="xla").reshape(q.shape)
    if allowed is None:
        return y
    return jnp.where(some(allowed), y, 0)


def cudnn(q: Array, k: Array, v: Array, wanted: dict[str, Any]) -> Array:
    """cuDNN's fused attention, of what `unfit` lets through.

    Of what is not finite it is kept from places that no query sees; of other places it may reach
    queries that `causal` or `window` part from them.
    """
    lengths, window, mask = wanted["lengths"], wanted["window"], wanted["mask"]

    def clean(x):
        rows = x.reshape(*x.shape[:-2], -1)  # [..., source, heads * dim]
        return zero_nonfinite_padding(rows, mask, lengths).reshape(x.shape)

    four = [x.reshape(-1, *x.shape[-3:]) for x in (q, clean(k), clean(v))]
    time, source = q.shape[-3], k.shape[-3]
    settings: dict[str, Any] = {"scale": wanted["scale"], "is_causal": wanted["causal"]}
    if window is not None:
        settings["local_window_size"] = (int(window) - 1, 0)
    if lengths is not None:
        lengths = jnp.broadcast_to(jnp.asarray(lengths).astype(jnp.int32), q.shape[:-3])
        settings["key_value_seq_lengths"] = jnp.clip(lengths, 1, source).reshape(-1)
    if mask is not None:
        mask = for_heads(mask, q)
        settings["mask"] = flat(jnp.broadcast_to(mask, (*mask.shape[:-2], time, source)), q)
    y = jax.nn.dot_product_attention(*four, **settings, implementation="cudnn").reshape(q.shape)
    if lengths is None and mask is None:
        return y
    allowed = allowed_places(q, k, wanted)
    return y if allowed is None else jnp.where(some(allowed), y, 0)
