"""doctor's checks of what an output depends on: its own example, and no later tokens."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe, differ, is_floating, split_pair


def check_examples(probe: Probe) -> Iterator[Finding]:
    """Every output depends on its example, and on neither the other examples nor its position.

    probe: of the task.
    """
    x, y, size = probe.x, probe.y, probe.size
    if y is None or size < 3:
        return
    if y.shape[0] != size:
        _, taps = probe.forward(probe.params, x)
        where = _first_path(taps, lambda path, tap: tap.shape[:1] != (size,), "the output")
        hint = "The first axis is the batch: look for a transpose or reshape that moves it."
        yield Finding("error", where, "batch axis moved", f"{size} examples give an output of shape {y.shape}.", hint)
        return
    is_batch = lambda tap: tap.shape[:1] == (size,)
    changed_x = jax.tree.map(_change_first, x)
    modes = [False] if jax.tree.leaves(probe.state) else [False, True]  # batch norm mixes examples on purpose
    for train in modes:
        base, taps = probe.forward(probe.perturbed, x, train=train)
        changed, changed_taps = probe.forward(probe.perturbed, changed_x, train=train)
        if differ(base[1:], changed[1:]):
            where = _first_difference(taps, changed_taps, lambda tap: tap[1:] if is_batch(tap) else tap[:0])
            mode = "training" if train else "evaluation"
            evidence = f"Changing the first example changes the outputs of others, in {mode} mode."
            hint = "Look for a mean, softmax, norm or reshape over axis 0, the batch."
            yield Finding("error", where, "examples leak", evidence, hint)
            break
        if not train and not differ(base[1:], base[:-1]) and _has_distinct_examples(x):
            where = _first_path(taps, lambda path, tap: is_batch(tap) and not differ(tap[1:], tap[:-1]))
            evidence = f"All {size} outputs are equal, although the inputs differ."
            hint = "Look for a product with 0, a mean over the features, or dead units."
            yield Finding("error", where, "output ignores the input", evidence, hint)
            return
    equal_x = jax.tree.map(lambda leaf: np.repeat(leaf[:1], size, axis=0), x)
    y, taps = probe.forward(probe.perturbed, equal_x)
    if probe.needs_key or differ(y[1:], y[:-1]):
        where = _first_path(taps, lambda path, tap: is_batch(tap) and differ(tap[1:], tap[:-1]))
        evidence = "Without a key, equal examples give different outputs."
        if probe.needs_key:
            evidence = "The model refuses to run without a key, so it cannot be evaluated."
        hint = "Draw random numbers only when there is a key: key=None means no dropout and no noise."
        yield Finding("error", where, "random without a key", evidence, hint)


def check_causality(probe: Probe) -> Iterator[Finding]:
    """A model that predicts the next token does not see later tokens.

    probe: of the task.
    """
    x, y = probe.x, probe.y
    _, target = split_pair(probe.batch)
    if y is None or target is None or not isinstance(x, np.ndarray) or x.ndim != 2:
        return
    target = np.asarray(target)
    are_tokens = np.issubdtype(x.dtype, np.integer) and np.issubdtype(target.dtype, np.integer)
    if not are_tokens or target.shape != x.shape or y.shape[:2] != x.shape or x.shape[1] < 4:
        return
    if np.array_equal(target, x):
        evidence = "The label of every token is the token itself, so there is nothing to learn."
        hint = "Shift them by one: x = tokens[:, :-1], labels = tokens[:, 1:]."
        yield Finding("error", "labels", "labels are the inputs", evidence, hint)
    if not np.array_equal(target[:, :-1], x[:, 1:]):
        return
    middle = x.shape[1] // 2
    changed_x = x.copy()
    changed_x[:, middle:] = np.roll(x, 1, axis=0)[:, middle:]
    changed_x[:, middle] = np.where(changed_x[:, middle] == x[:, middle], x[:, 0], changed_x[:, middle])
    base, taps = probe.forward(probe.perturbed, x)
    changed, changed_taps = probe.forward(probe.perturbed, changed_x)
    if differ(base[:, :middle], changed[:, :middle]):
        shape = x.shape
        where = _first_difference(taps, changed_taps, lambda t: t[:, :middle] if t.shape[:2] == shape else t[:0])
        evidence = f"Changing the tokens from position {middle} on changes earlier outputs."
        hint = "Give the attention a causal mask, and average over no later tokens."
        yield Finding("error", where, "the future leaks", evidence, hint)


def _change_first(leaf: Any) -> np.ndarray:
    """The leaf with another first example: integers of another example, floats with noise added."""
    leaf = np.array(leaf)
    if np.issubdtype(leaf.dtype, np.integer):
        leaf[0] = next((row for row in leaf[1:] if not np.array_equal(row, leaf[0])), leaf[0])
    elif is_floating(leaf):
        noise = np.random.default_rng(1).normal(size=leaf[0].shape)
        deviation = np.std(np.asarray(leaf, np.float64)) + 1e-3
        leaf[0] = (leaf[1] + deviation * noise).astype(leaf.dtype)
    return leaf


def _first_path(taps: dict[str, Any], is_match: Callable[[str, Any], bool], default: str = "the model") -> str:
    """The path of the first layer whose output matches."""
    return next((path for path, tap in taps.items() if is_match(path, tap)), default)


def _first_difference(taps: dict[str, Any], others: dict[str, Any], part: Callable[[Any], Any]) -> str:
    """The path of the first layer whose outputs differ in a part."""
    return _first_path(taps, lambda path, tap: path in others and differ(part(tap), part(others[path])))


def _has_distinct_examples(x: Any) -> bool:
    return any(np.any(leaf[1:] != leaf[:-1]) for leaf in jax.tree.leaves(x))
