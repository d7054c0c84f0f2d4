"""The prompts of `generate`, in one array."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, canonicalize

__all__ = ["known", "read"]


def read(prompt: Any, lengths: Any) -> tuple[Any, Array, int]:
    """ids [..., time], how much of each row counts [...], and the length that all rows have.

    prompt, lengths: the arguments of `generate`.
    """
    if isinstance(prompt, str):
        check.fail(
            "generate",
            expected="prompt should hold ids",
            actual=f"{prompt!r}",
            hint="Encode the text first.",
            exc_type=TypeError,
        )
    if isinstance(prompt, list | tuple) and any(np.ndim(part) > 0 for part in prompt):
        if lengths is not None:
            check.fail(
                "generate",
                expected="lengths should be left out with a list of prompts, which have their own",
                actual=check.describe(lengths),
            )
        ids, lengths = _stacked(prompt)
    else:
        ids = _ids(prompt)
    if ids.ndim < 1 or min(ids.shape) < 1:
        check.fail(
            "generate",
            expected="prompt should hold at least one id, as [..., time]",
            actual=f"shape {ids.shape}",
            hint="Begin with a token that stands for the start, such as that of a new line.",
        )
    lead, width = ids.shape[:-1], ids.shape[-1]
    if lengths is None:
        return ids, jnp.full(lead, width, jnp.int32), width
    lengths = canonicalize(lengths if hasattr(lengths, "dtype") else np.asarray(lengths), "generate")
    check.integers("generate", lengths=lengths)
    check.shape("generate", lead, lengths=lengths)
    first = 1
    if not check.is_traced(lengths):
        first, last = int(np.min(lengths)), int(np.max(lengths))
        if not 1 <= first <= last <= width:
            check.fail(
                "generate",
                expected=f"every prompt should have 1 to {width} ids",
                actual=f"lengths from {first} to {last}",
            )
    return ids, jnp.asarray(lengths).astype(jnp.int32), first


def known(ids: Any, given: Array, vocab_size: int) -> None:
    """The ids that count are in the vocabulary, where they can be looked at.

    given: the lengths of the prompts. vocab_size: the number of ids.
    """
    if check.is_traced(ids) or check.is_traced(given):
        return
    ids = np.asarray(ids)
    counts = np.arange(ids.shape[-1]) < np.asarray(given)[..., None]
    wrong = ids[counts & ((ids < 0) | (ids >= vocab_size))]
    if wrong.size:
        check.fail(
            "generate", expected=f"prompt should hold ids in [0, {vocab_size}), the model's vocabulary", actual=wrong[0]
        )


def _stacked(prompts: Any) -> tuple[Any, np.ndarray]:
    """Prompts of different lengths, filled up with zeros, and their lengths."""
    parts = [_ids(part) for part in prompts]
    if any(part.ndim != 1 for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        check.fail("generate", expected="a list of prompts should hold one axis of ids each", actual=f"shapes {shapes}")
    lengths = np.array([len(part) for part in parts], np.int32)
    module, dtype = (jnp, np.int32) if any(map(check.is_traced, parts)) else (np, np.int64)
    rows = [module.pad(part, (0, max(lengths) - len(part))).astype(dtype) for part in parts]
    return module.stack(rows), lengths


def _ids(prompt: Any) -> Any:
    ids = prompt if hasattr(prompt, "dtype") else np.asarray(prompt)
    if ids.size:  # without ids there is no type
        check.integers("generate", prompt=ids)
    return ids
