"""What `doctor` checks of what a model looks at: its own example, all of it, and no later tokens."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe, rows_differ

__all__ = ["check_causality", "check_examples"]


def check_examples(look: Probe) -> Iterator[Finding]:
    """Every example's output is its own, depends on it, and not on its place in the batch."""
    y, size = look.y, look.size
    if y is None or size < 3:
        return
    if y.shape[0] != size:
        cure = "The first axis is the batch: look for a transpose or reshape that moves it."
        why = f"{size} examples give an output of shape {y.shape}."
        yield Finding("error", _first_moved(look, size), "batch axis moved", why, cure)
        return
    other = _another_first(look.x)
    modes = [False] if jax.tree.leaves(look.state) else [False, True]  # batch norm leaks by right
    for train in modes:
        base, taps = look.forward(look.perturbed, look.x, train=train)
        changed, changed_taps = look.forward(look.perturbed, other, train=train)
        if rows_differ(base[1:], changed[1:]):
            where = _first(taps, changed_taps, lambda t: t[1:] if t.shape[:1] == (size,) else t[:0])
            mode = "training" if train else "evaluation"
            why = f"Changing the first example changes the outputs of others, in {mode} mode."
            cure = "Look for a mean, softmax, norm or reshape over axis 0, the batch."
            yield Finding("error", where, "examples leak", why, cure)
            break
        if not train and not rows_differ(base[1:], base[:-1]) and _distinct(look.x):
            where = _constant(taps, size)
            why = f"All {size} outputs are equal, whatever the input."
            cure = "Look for a product with 0, a mean over the features, or units that are all off."
            yield Finding("error", where, "output ignores the input", why, cure)
            return
    alike = jax.tree.map(lambda leaf: np.repeat(leaf[:1], size, axis=0), look.x)
    same, taps = look.forward(look.perturbed, alike)
    if look.needs_key or rows_differ(same[1:], same[:-1]):
        where = "the model"
        for path, tap in taps.items():
            if tap.shape[:1] == (size,) and rows_differ(tap[1:], tap[:-1]):
                where = path
                break
        why = "Without a key, equal examples should give equal outputs, and do not."
        if look.needs_key:
            why = "Without a key, as in evaluation, it refuses to run."
        cure = "Draw only when a key is given: key=None means no dropout and no noise."
        yield Finding("error", where, "random without a key", why, cure)


def check_causality(look: Probe) -> Iterator[Finding]:
    """Where the next token is to be told, no output looks at later ones."""
    x, y = look.x, look.y
    target = look.batch[1] if isinstance(look.batch, tuple | list) and len(look.batch) == 2 else None
    if y is None or target is None or not isinstance(x, np.ndarray) or x.ndim != 2:
        return
    target = np.asarray(target)
    whole = np.issubdtype(x.dtype, np.integer) and np.issubdtype(target.dtype, np.integer)
    if not whole or target.shape != x.shape or y.shape[:2] != x.shape or x.shape[1] < 4:
        return
    if np.array_equal(target, x):
        why = "Every token is to be told from itself, which is easy and useless."
        cure = "Shift them by one: x = tokens[:, :-1], labels = tokens[:, 1:]."
        yield Finding("error", "labels", "labels are the inputs", why, cure)
    if not np.array_equal(target[:, :-1], x[:, 1:]):
        return
    middle = x.shape[1] // 2
    later = x.copy()
    later[:, middle:] = np.roll(x, 1, axis=0)[:, middle:]
    later[:, middle] = np.where(later[:, middle] == x[:, middle], x[:, 0], later[:, middle])
    base, taps = look.forward(look.perturbed, x)
    changed, changed_taps = look.forward(look.perturbed, later)
    if rows_differ(base[:, :middle], changed[:, :middle]):
        shape = x.shape
        where = _first(taps, changed_taps, lambda t: t[:, :middle] if t.shape[:2] == shape else t[:0])
        why = f"Changing the tokens from place {middle} on changes the outputs before it."
        cure = "Give the attention a causal mask, and average over no later tokens."
        yield Finding("error", where, "the future leaks", why, cure)


def _another_first(x: Any) -> Any:
    """x with another first example: another one of the batch, and floats moved."""

    def change(leaf):
        leaf = np.array(leaf)
        if np.issubdtype(leaf.dtype, np.integer):
            different = [row for row in leaf[1:] if not np.array_equal(row, leaf[0])]
            leaf[0] = different[0] if different else leaf[0]
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            draw = np.random.default_rng(1).normal(size=leaf[0].shape)
            noise = (np.std(np.asarray(leaf, np.float64)) + 1e-3) * draw
            leaf[0] = (leaf[1] + noise).astype(leaf.dtype)
        return leaf

    return jax.tree.map(change, x)


def _first(taps: dict[str, Any], others: dict[str, Any], part: Any) -> str:
    """The first layer whose result differs in the given part."""
    for path, tap in taps.items():
        if path in others and rows_differ(part(tap), part(others[path])):
            return path
    return "the model"


def _first_moved(look: Probe, size: int) -> str:
    _, taps = look.forward(look.params, look.x)
    moved = [path for path, tap in taps.items() if tap.shape[:1] != (size,)]
    return moved[0] if moved else "the output"


def _constant(taps: dict[str, Any], size: int) -> str:
    for path, tap in taps.items():
        if tap.shape[:1] == (size,) and not rows_differ(tap[1:], tap[:-1]):
            return path
    return "the model"


def _distinct(x: Any) -> bool:
    return any(np.any(leaf[1:] != leaf[:-1]) for leaf in jax.tree.leaves(x))
