"""What `doctor` checks of a model: that it looks at what it should, and that signals pass through."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import paths
from nnfunc.debug.finding import Finding
from nnfunc.debug.look import Look, matrices, rows_differ

__all__ = [
    "activations", "causality", "examples", "gradients", "nonlinearity", "outputs", "symmetry",
]  # fmt: skip


def examples(look: Look) -> Iterator[Finding]:
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
        base, taps = look.forward(look.moved, look.x, train=train)
        changed, changed_taps = look.forward(look.moved, other, train=train)
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
    same, taps = look.forward(look.moved, alike)
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


def causality(look: Look) -> Iterator[Finding]:
    """Where the next token is to be told, no output looks at later ones."""
    x, y = look.x, look.y
    target = (
        look.batch[1] if isinstance(look.batch, tuple | list) and len(look.batch) == 2 else None
    )
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
    base, taps = look.forward(look.moved, x)
    changed, changed_taps = look.forward(look.moved, later)
    if rows_differ(base[:, :middle], changed[:, :middle]):
        shape = x.shape
        where = _first(
            taps, changed_taps, lambda t: t[:, :middle] if t.shape[:2] == shape else t[:0]
        )
        why = f"Changing the tokens from place {middle} on changes the outputs before it."
        cure = "Give the attention a causal mask, and average over no later tokens."
        yield Finding("error", where, "the future leaks", why, cure)


def outputs(look: Look) -> Iterator[Finding]:
    """A loss that takes logits is given logits."""
    y, judged = look.y, look.judged
    if y is None or y.ndim < 2 or y.shape[-1] < 2 or not shift_invariant(look):
        return
    large = jax.tree.map(lambda leaf: leaf * 30, look.moved)
    bounds, _ = look.forward(large, look.x)
    if not np.isfinite(bounds).all():
        bounds = y
    if not _varies(bounds):  # told elsewhere
        return
    low, high = float(min(bounds.min(), y.min())), float(max(bounds.max(), y.max()))
    zeros = float(np.mean(bounds == 0))
    if low >= 0 and np.allclose(y.sum(-1), 1, atol=1e-3):
        loss = judged["loss"]
        why = f"The outputs are probabilities already, whose softmax the loss takes: {loss:.3g}."
        cure = "Leave the last softmax out; nf.predict and losses take logits."
        yield Finding("error", "the output", "softmax twice", why, cure)
    elif low >= -1 - 1e-4 and high <= 1 + 1e-4:
        why = f"The outputs stay in [{low:.2g}, {high:.2g}] even for parameters 30 times as large."
        cure = "Leave the last sigmoid or tanh out: the loss takes logits of any size."
        yield Finding("error", "the output", "squashed outputs", why, cure)
    elif low >= 0 and zeros > 0.05:
        why = f"No output is below 0, and {zeros:.0%} are 0, where no gradient passes."
        cure = "Leave the last activation out: the loss takes logits of both signs."
        yield Finding("error", "the output", "relu on the outputs", why, cure)


def shift_invariant(look: Look) -> bool:
    """Whether a number added to all outputs leaves the loss as it is, as a softmax does."""
    loss, shifted, zeros = (float(look.judged[name]) for name in ("loss", "shifted", "zeros"))
    return abs(shifted - loss) < 1e-4 * max(abs(loss), 1e-3) and np.isfinite(zeros)


def nonlinearity(look: Look) -> Iterator[Finding]:
    """A model of two matrices or more is no affine function of x."""
    x, y = look.x, look.y
    if y is None or not isinstance(x, np.ndarray) or not jnp.issubdtype(x.dtype, jnp.floating):
        return
    look.forward(look.moved, x)
    count = len(matrices(look, paths.flatten(look.params)))
    if count < 2 or look.size < 3 or look.needs_key:
        return
    one, two, three = x, np.roll(x, 1, axis=0), np.roll(x, 2, axis=0)
    parts = [look.forward(look.moved, part)[0] for part in (one, two, three, one + two - three)]
    whole = parts[0] + parts[1] - parts[2]
    if not rows_differ(whole, parts[3]) and _varies(parts[0]):
        why = f"Its {count} matrices multiply to one: the output is an affine function of x."
        cure = "Put an activation between the layers, such as jax.nn.relu."
        yield Finding("error", "the model", "no nonlinearity", why, cure)


def symmetry(look: Look) -> Iterator[Finding]:
    """No matrix begins with equal columns, or all of them with 0: such units stay equal for ever."""
    look.forward(look.params, look.x)
    found = matrices(look, paths.flatten(look.params))
    equal = [
        p for p, w in found.items() if w.shape[-1] > 1 and w.any() and not np.ptp(w, axis=-1).any()
    ]
    zero = [path for path, w in found.items() if not w.any()]
    cure = "Draw initial weights at random: nf.initializers.he_normal, lecun_normal, ..."
    if equal:
        why = f"All columns of {_listed(equal)} begin equal, so all units learn the same."
        yield Finding("error", equal[0], "symmetric parameters", why, cure)
    elif len(found) > 1 and len(zero) == len(found):
        why = "Every weight matrix begins with 0, so no unit ever differs from the next."
        yield Finding("error", zero[0], "symmetric parameters", why, cure)


def activations(look: Look) -> Iterator[Finding]:
    """The deviation of every layer's result at the start is neither tiny nor huge."""
    _, taps = look.forward(look.params, look.x)
    floats = [
        np.std(np.asarray(leaf, np.float32))
        for leaf in jax.tree.leaves(look.x)
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    ]
    scale = max([1.0, *map(float, floats)])
    deviations = {
        path: float(np.std(tap.astype(np.float64))) for path, tap in taps.items() if tap.size > 1
    }
    for path, deviation in deviations.items():
        if deviation > 1e3 * scale:
            why = (
                f"Its results deviate by {deviation:.2g} at the start, from inputs of {scale:.2g}."
            )
            cure = "Use smaller initial weights (he_normal for relu) or a norm between the layers."
            yield Finding("error", path, "activations explode", why, cure)
            return
    for path, deviation in deviations.items():
        if 0 < deviation < 1e-4:
            why = f"Its results deviate by {deviation:.2g} at the start: nothing of the input is left."
            cure = (
                "Use larger initial weights (he_normal for relu), a norm, or residual connections."
            )
            yield Finding("error", path, "activations vanish", why, cure)
            return


def gradients(look: Look) -> Iterator[Finding]:
    """Every parameter gets a gradient, of like size through the depth."""
    loss, grads = look.gradients(look.params)
    _, others = look.gradients(look.moved)
    here, there = paths.flatten(jax.device_get(grads)), paths.flatten(jax.device_get(others))
    dead = [path for path in here if not np.any(here[path]) and not np.any(there[path])]
    if dead:
        why = f"The gradient of {_listed(dead)} is exactly 0, here and for parameters near by."
        _, taps = look.forward(look.params, look.x)
        off = [path for path, tap in taps.items() if tap.size and not tap.any()]
        if off:
            why += f" All results of {off[0]} are 0."
        cure = "Is the layer used, its result not stopped, rounded or switched off by a relu?"
        yield Finding("error", dead[0], "no gradient", why, cure)
    look.forward(look.params, look.x)
    sizes = {
        p: float(np.sqrt(np.mean(np.square(g)))) for p, g in matrices(look, here).items() if g.any()
    }
    if not sizes or not all(map(np.isfinite, sizes.values())):
        return
    least, most = min(sizes, key=lambda p: sizes[p]), max(sizes, key=lambda p: sizes[p])
    norm = float(np.sqrt(sum(float(np.square(g).sum()) for g in here.values())))
    if norm > 1e4 * max(1.0, abs(float(loss))):
        why = f"Its gradient is {sizes[most]:.2g} a weight; all together have a norm of {norm:.2g}."
        cure = "Use smaller initial weights, a norm between the layers, or clip=1.0."
        yield Finding("error", most, "gradients explode", why, cure)
    elif sizes[least] < 1e-6 * sizes[most]:
        why = f"Its gradient is {sizes[least]:.2g} a weight, that of {most} {sizes[most]:.2g}."
        cure = (
            "Use he_normal or a norm or residual connections; sigmoid and tanh saturate in depth."
        )
        yield Finding("error", least, "gradients vanish", why, cure)


def _another_first(x: Any) -> Any:
    """x with another first example: another one of the batch, and floats moved."""

    def change(leaf):
        leaf = np.array(leaf)
        if np.issubdtype(leaf.dtype, np.integer):
            different = [row for row in leaf[1:] if not np.array_equal(row, leaf[0])]
            leaf[0] = different[0] if different else leaf[0]
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            draw = np.random.default_rng(1).normal(size=leaf[0].shape)
            noise = (np.std(np.asarray(leaf, np.float32)) + 1e-3) * draw
            leaf[0] = (leaf[1] + noise).astype(leaf.dtype)
        return leaf

    return jax.tree.map(change, x)


def _first(taps: dict[str, Any], others: dict[str, Any], part: Any) -> str:
    """The first layer whose result differs in the given part."""
    for path, tap in taps.items():
        if path in others and rows_differ(part(tap), part(others[path])):
            return path
    return "the model"


def _first_moved(look: Look, size: int) -> str:
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


def _varies(y: np.ndarray) -> bool:
    return rows_differ(y[1:], y[:-1])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
