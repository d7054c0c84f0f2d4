"""The prompts of `generate`, as one array."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, canonicalize


def read_prompts(prompt: Any, lengths: Any) -> tuple[Any, Array, int]:
    """(ids [..., time], the length of each prompt [...], the length of the shortest, or 1 if traced).

    prompt, lengths: the arguments of `generate`.
    """
    where = "generate"
    if isinstance(prompt, str):
        hint = "Encode the text first."
        check.fail(where, expected="prompt should be ids", actual=repr(prompt), hint=hint, exc_type=TypeError)
    if isinstance(prompt, list | tuple) and any(np.ndim(part) > 0 for part in prompt):
        if lengths is not None:
            expected = "lengths should be left out with a list of prompts"
            check.fail(where, expected=expected, actual=check.describe(lengths))
        ids, lengths = _stack(prompt)
    else:
        ids = _as_ids(prompt)
    if ids.ndim < 1 or min(ids.shape) < 1:
        expected = "prompt should have at least one id, as [..., time]"
        hint = "Begin with a start token, such as that of a newline."
        check.fail(where, expected=expected, actual=f"shape {ids.shape}", hint=hint)
    lead, width = ids.shape[:-1], ids.shape[-1]
    if lengths is None:
        return ids, jnp.full(lead, width, jnp.int32), width
    lengths = canonicalize(lengths if hasattr(lengths, "dtype") else np.asarray(lengths), where)
    check.integers(where, lengths=lengths)
    check.shape(where, lead, lengths=lengths)
    first = 1
    if not check.is_traced(lengths):
        first, last = int(np.min(lengths)), int(np.max(lengths))
        if not 1 <= first <= last <= width:
            expected = f"every prompt should have 1 to {width} ids"
            check.fail(where, expected=expected, actual=f"lengths from {first} to {last}")
    return ids, jnp.asarray(lengths).astype(jnp.int32), first


def check_vocabulary(ids: Any, lengths: Array, vocab_size: int) -> None:
    """Raise a ValueError if an id of a prompt is outside the vocabulary; traced ids are not checked.

    ids: [..., time].
    lengths: [...], of the prompts.
    vocab_size: the number of ids.
    """
    if check.is_traced(ids) or check.is_traced(lengths):
        return
    ids = np.asarray(ids)
    in_prompt = np.arange(ids.shape[-1]) < np.asarray(lengths)[..., None]
    wrong = ids[in_prompt & ((ids < 0) | (ids >= vocab_size))]
    if wrong.size:
        expected = f"prompt should have ids in [0, {vocab_size}), the model's vocabulary"
        check.fail("generate", expected=expected, actual=wrong[0])


def _stack(prompts: Any) -> tuple[Any, np.ndarray]:
    """(prompts of different lengths, padded with zeros; their lengths)."""
    parts = [_as_ids(part) for part in prompts]
    if any(part.ndim != 1 for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        expected = "each prompt in a list should be one row of ids"
        check.fail("generate", expected=expected, actual=f"shapes {shapes}")
    lengths = np.array([len(part) for part in parts], np.int32)
    module, dtype = (jnp, np.int32) if any(map(check.is_traced, parts)) else (np, np.int64)
    rows = [module.pad(part, (0, max(lengths) - len(part))).astype(dtype) for part in parts]
    return module.stack(rows), lengths


def _as_ids(prompt: Any) -> Any:
    ids = prompt if hasattr(prompt, "dtype") else np.asarray(prompt)
    if ids.size:  # an empty list has no dtype
        check.integers("generate", prompt=ids)
    return ids
