"""Attention by `jax.nn.dot_product_attention`, and the choice of when to use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar
from nnfunc.layers.attention.masks import (
    AttendOptions,
    allowed_positions,
    any_allowed,
    flatten_leading,
    with_head_axis,
    zero_nonfinite_padding,
)

Implementation = Literal["plain", "xla", "cudnn"]


_planned: ContextVar[bool] = ContextVar("planned for a GPU", default=False)


@contextmanager
def planned_for_gpu(enabled: bool) -> Iterator[None]:
    """A block in which programs are traced as for a GPU with cuDNN, to be compiled here for their memory.

    enabled: whether they are.
    """
    token = _planned.set(enabled)
    try:
        yield
    finally:
        _planned.reset(token)


def is_planned_for_gpu() -> bool:
    """Whether a program is traced in such a block."""
    return _planned.get()


def choose_implementation(
    platform: str, q: Array, k: Array, v: Array, options: AttendOptions, capability: float
) -> Implementation:
    """The implementation for an `attend` on this platform.

    capability: the compute capability of the GPU as a number, 9.0; 0 where it is not one of NVIDIA's.
    """
    if platform != "gpu":
        return "plain"
    if capability >= 8 and unsupported_by("cudnn", q, k, v, options) is None:
        return "cudnn"
    return "xla" if unsupported_by("xla", q, k, v, options) is None else "plain"


def unsupported_by(implementation: Implementation, q: Array, k: Array, v: Array, options: AttendOptions) -> str | None:
    """What an implementation cannot do of this call, for a message; None when it can do everything."""
    used = {name for name, value in options._asdict().items() if value is not None and value is not False}

    def among(*names: str) -> str:
        return " and ".join(sorted(used.intersection(names)))

    if implementation == "plain":
        return None
    if among("soft_cap", "dropout"):
        return among("soft_cap", "dropout")
    if v.shape[-1] != q.shape[-1] or q.size == 0 or k.size == 0:
        return f"values of shape {v.shape} for queries of shape {q.shape}"
    if implementation == "xla":
        return None
    time, source = q.shape[-3], k.shape[-3]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"the dtype {q.dtype}"
    if q.shape[-1] > 128 or q.shape[-1] % 8:
        return f"a head_dim of {q.shape[-1]}"
    if among("bias", "slopes", "start"):
        return among("bias", "slopes", "start")
    if options.scale is not None and not check.is_plain(options.scale):
        return "a traced scale"
    if options.causal and time != source:
        return f"causal=True for {time} queries and {source} keys"
    if options.window is not None and not (options.causal and isinstance(options.window, int | np.integer)):
        return "a window that is traced or not causal"
    if among("mask", "lengths") and jax.__version_info__ < (0, 11, 2):
        return f"{among('mask', 'lengths')} before jax 0.11.2, whose vmap of it fails"
    if options.mask is not None and (time % 2 or source % 2):
        return f"a mask for an odd number of queries or keys, {time} and {source}"
    return None


def gpu_compute_capability() -> float:
    """The compute capability of the first GPU, 0 when it has none."""
    try:
        return float(getattr(jax.local_devices()[0], "compute_capability", "0"))
    except ValueError:  # gfx90a
        return 0.0


def attend_xla(q: Array, k: Array, v: Array, bias: Array | None, allowed: Array | None, scale: Scalar | None) -> Array:
    """`jax.nn.dot_product_attention`, which gives a query without keys their mean: here it is zeros."""
    q_batch, k_batch, v_batch = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))  # [batch, time, heads, dim]
    settings: dict[str, Any] = {
        "bias": flatten_leading(bias, q),
        "mask": flatten_leading(allowed, q),
        "scale": scale,
        "implementation": "xla",
    }
    y = jax.nn.dot_product_attention(q_batch, k_batch, v_batch, **settings)
    y = y.reshape(q.shape)  # [..., time, heads, head_dim]
    return y if allowed is None else jnp.where(any_allowed(allowed), y, 0)


def attend_cudnn(q: Array, k: Array, v: Array, options: AttendOptions) -> Array:
    """cuDNN's fused attention, for calls that it supports (`unsupported_by`).

    Values that are not finite cannot leave positions that no query sees; from other positions they may reach
    queries that `causal` or `window` separate from them.
    """
    lengths, window, mask = options.lengths, options.window, options.mask

    def clean(x):
        rows = x.reshape(*x.shape[:-2], -1)  # [..., source, heads * dim]
        return zero_nonfinite_padding(rows, mask, lengths).reshape(x.shape)  # [..., source, heads, dim]

    # [..., time, heads, dim] -> [batch, time, heads, dim]
    q_batch, k_batch, v_batch = (x.reshape(-1, *x.shape[-3:]) for x in (q, clean(k), clean(v)))
    time, source = q.shape[-3], k.shape[-3]
    settings: dict[str, Any] = {"scale": options.scale, "is_causal": options.causal}
    if window is not None:
        settings["local_window_size"] = (int(window) - 1, 0)
    if lengths is not None:
        lengths = jnp.broadcast_to(jnp.asarray(lengths).astype(jnp.int32), q.shape[:-3])
        settings["key_value_seq_lengths"] = jnp.clip(lengths, 1, source).reshape(-1)  # [batch]
    if mask is not None:
        mask = with_head_axis(mask, q)
        settings["mask"] = flatten_leading(jnp.broadcast_to(mask, (*mask.shape[:-2], time, source)), q)
    y = jax.nn.dot_product_attention(q_batch, k_batch, v_batch, **settings, implementation="cudnn")
    y = y.reshape(q.shape)  # [..., time, heads, head_dim]
    if lengths is None and mask is None:
        return y
    allowed = allowed_positions(q, k, options)
    return y if allowed is None else jnp.where(any_allowed(allowed), y, 0)
