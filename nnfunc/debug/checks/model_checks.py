"""What `doctor` checks of a model: that its outputs fit the loss, and that signals pass through it."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import paths
from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe, rows_differ, weight_matrices

__all__ = [
    "check_activations",
    "check_gradients",
    "check_nonlinearity",
    "check_outputs",
    "check_symmetry",
    "is_shift_invariant",
]


def check_outputs(look: Probe) -> Iterator[Finding]:
    """A loss that takes logits is given logits."""
    y, judged = look.y, look.evaluation
    if y is None or y.ndim < 2 or y.shape[-1] < 2 or not is_shift_invariant(look):
        return
    large = jax.tree.map(lambda leaf: leaf * 30, look.perturbed)
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
        cure = "Leave the last softmax out: the loss takes logits."
        yield Finding("error", "the output", "softmax twice", why, cure)
    elif low >= -1 - 1e-4 and high <= 1 + 1e-4:
        why = f"The outputs stay in [{low:.2g}, {high:.2g}] even for parameters 30 times as large."
        cure = "Leave the last sigmoid or tanh out: the loss takes logits of any size."
        yield Finding("error", "the output", "squashed outputs", why, cure)
    elif low >= 0 and zeros > 0.05:
        why = f"No output is below 0, and {zeros:.0%} are 0, where no gradient passes."
        cure = "Leave the last activation out: the loss takes logits of both signs."
        yield Finding("error", "the output", "relu on the outputs", why, cure)


def is_shift_invariant(look: Probe) -> bool:
    """Whether a number added to all outputs leaves the loss as it is, as a softmax does."""
    loss, shifted, zeros = (float(look.evaluation[name]) for name in ("loss", "shifted", "zeros"))
    return abs(shifted - loss) < 1e-4 * max(abs(loss), 1e-3) and np.isfinite(zeros)


def check_nonlinearity(look: Probe) -> Iterator[Finding]:
    """A model of two matrices or more is no affine function of x."""
    x, y = look.x, look.y
    if y is None or not isinstance(x, np.ndarray) or not jnp.issubdtype(x.dtype, jnp.floating):
        return
    look.forward(look.perturbed, x)
    count = len(weight_matrices(look, paths.flatten(look.params)))
    if count < 2 or look.size < 3 or look.needs_key:
        return
    one, two, three = x, np.roll(x, 1, axis=0), np.roll(x, 2, axis=0)
    parts = [look.forward(look.perturbed, part)[0] for part in (one, two, three, one + two - three)]
    whole = parts[0] + parts[1] - parts[2]
    if not rows_differ(whole, parts[3]) and _varies(parts[0]):
        why = f"Its {count} matrices multiply to one: the output is an affine function of x."
        cure = "Put an activation between the layers, such as jax.nn.relu."
        yield Finding("error", "the model", "no nonlinearity", why, cure)


def check_symmetry(look: Probe) -> Iterator[Finding]:
    """No matrix begins with equal columns, or all of them with 0: such units stay equal for ever."""
    look.forward(look.params, look.x)
    found = weight_matrices(look, paths.flatten(look.params))
    equal = [p for p, w in found.items() if w.shape[-1] > 1 and w.any() and not np.ptp(w, axis=-1).any()]
    zero = [path for path, w in found.items() if not w.any()]
    cure = "Draw initial weights at random: nf.initializers.he_normal, lecun_normal, ..."
    if equal:
        why = f"All columns of {_listed(equal)} begin equal, so all units learn the same."
        yield Finding("error", equal[0], "symmetric parameters", why, cure)
    elif len(found) > 1 and len(zero) == len(found):
        why = "Every weight matrix begins with 0, so no unit ever differs from the next."
        yield Finding("error", zero[0], "symmetric parameters", why, cure)


def check_activations(look: Probe) -> Iterator[Finding]:
    """The deviation of every layer's result at the start is neither tiny nor huge."""
    _, taps = look.forward(look.params, look.x)
    floats = [
        np.std(np.asarray(leaf, np.float64))
        for leaf in jax.tree.leaves(look.x)
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    ]
    scale = max([1.0, *map(float, floats)])
    deviations = {path: float(np.std(tap.astype(np.float64))) for path, tap in taps.items() if tap.size > 1}
    for path, deviation in deviations.items():
        if deviation > 1e3 * scale:
            why = f"Its results deviate by {deviation:.2g} at the start, from inputs of {scale:.2g}."
            cure = "Use smaller initial weights (he_normal for relu) or a norm between the layers."
            yield Finding("error", path, "activations explode", why, cure)
            return
    for path, deviation in deviations.items():
        if 0 < deviation < 1e-4:
            why = f"Its results deviate by {deviation:.2g} at the start: nothing of the input is left."
            cure = "Use larger initial weights (he_normal for relu), a norm, or residual connections."
            yield Finding("error", path, "activations vanish", why, cure)
            return


def check_gradients(look: Probe) -> Iterator[Finding]:
    """Every parameter gets a gradient, of like size through the depth."""
    loss, grads = look.gradients(look.params)
    _, others = look.gradients(look.perturbed)
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
        p: float(np.sqrt(np.mean(np.square(g, dtype=np.float64))))
        for p, g in weight_matrices(look, here).items()
        if g.any()
    }
    if not sizes or not all(map(np.isfinite, sizes.values())):
        return
    least, most = min(sizes, key=lambda p: sizes[p]), max(sizes, key=lambda p: sizes[p])
    norm = float(np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in here.values())))
    if norm > 1e4 * max(1.0, abs(float(loss))):
        why = f"Its gradient is {sizes[most]:.2g} a weight; all together have a norm of {norm:.2g}."
        cure = "Use smaller initial weights, a norm between the layers, or clip=1.0."
        yield Finding("error", most, "gradients explode", why, cure)
    elif sizes[least] < 1e-6 * sizes[most]:
        why = f"Its gradient is {sizes[least]:.2g} a weight, that of {most} {sizes[most]:.2g}."
        cure = "Use he_normal or a norm or residual connections; sigmoid and tanh saturate in depth."
        yield Finding("error", least, "gradients vanish", why, cure)


def _varies(y: np.ndarray) -> bool:
    return rows_differ(y[1:], y[:-1])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
