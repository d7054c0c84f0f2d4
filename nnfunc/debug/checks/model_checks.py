"""doctor's checks of a model: its outputs fit the loss, and signals pass through its layers."""

from collections.abc import Iterator

import jax
import numpy as np

from nnfunc import check, paths
from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe, differ, is_floating, weight_matrices


def check_outputs(probe: Probe) -> Iterator[Finding]:
    """A loss of logits gets logits.

    probe: of the task.
    """
    y, evaluation = probe.y, probe.evaluation
    if y is None or y.ndim < 2 or y.shape[-1] < 2 or not is_shift_invariant(probe):
        return
    large = jax.tree.map(lambda leaf: leaf * 30, probe.perturbed)
    extremes, _ = probe.forward(large, probe.x)
    if not np.isfinite(extremes).all():
        extremes = y
    if not _varies(extremes):  # another check reports it
        return
    low, high = float(min(extremes.min(), y.min())), float(max(extremes.max(), y.max()))
    zeros = float(np.mean(extremes == 0))
    if low >= 0 and np.allclose(y.sum(-1), 1, atol=1e-3):
        loss = evaluation["loss"]
        evidence = f"The outputs are probabilities, and the loss takes their softmax once more: it is {loss:.3g}."
        hint = "Drop the model's last softmax: the loss takes logits."
        yield Finding("error", "the output", "softmax twice", evidence, hint)
    elif low >= -1 - 1e-4 and high <= 1 + 1e-4:
        evidence = f"The outputs stay in [{low:.2g}, {high:.2g}] even with parameters 30 times as large."
        hint = "Drop the model's last sigmoid or tanh: the loss takes logits of any size."
        yield Finding("error", "the output", "squashed outputs", evidence, hint)
    elif low >= 0 and zeros > 0.05:
        evidence = f"No output is negative and {zeros:.0%} are 0, where no gradient passes."
        hint = "Drop the model's last activation: the loss takes logits of both signs."
        yield Finding("error", "the output", "relu on the outputs", evidence, hint)


def is_shift_invariant(probe: Probe) -> bool:
    """Whether adding a number to all outputs of the probe keeps the loss, as with a softmax."""
    loss, shifted, zeros = (float(probe.evaluation[name]) for name in ("loss", "shifted", "zeros"))
    return abs(shifted - loss) < 1e-4 * max(abs(loss), 1e-3) and np.isfinite(zeros)


def check_nonlinearity(probe: Probe) -> Iterator[Finding]:
    """A model of two or more matrices is not an affine function of x.

    probe: of the task.
    """
    x, y = probe.x, probe.y
    if y is None or not isinstance(x, np.ndarray) or not is_floating(x):
        return
    probe.forward(probe.perturbed, x)
    count = len(weight_matrices(probe, paths.flatten(probe.params)))
    if count < 2 or probe.size < 3 or probe.needs_key:
        return
    a, b, c = x, np.roll(x, 1, axis=0), np.roll(x, 2, axis=0)
    f = [probe.forward(probe.perturbed, part)[0] for part in (a, b, c, a + b - c)]
    if not differ(f[0] + f[1] - f[2], f[3]) and _varies(f[0]):
        evidence = f"Its {count} matrices multiply to one: the output is an affine function of x."
        hint = "Put an activation between the layers, such as jax.nn.relu."
        yield Finding("error", "the model", "no nonlinearity", evidence, hint)


def check_symmetry(probe: Probe) -> Iterator[Finding]:
    """No matrix starts with equal columns, nor do all start at 0: such units stay equal for ever.

    probe: of the task.
    """
    probe.forward(probe.params, probe.x)
    matrices = weight_matrices(probe, paths.flatten(probe.params))
    equal = [p for p, w in matrices.items() if w.shape[-1] > 1 and w.any() and not np.ptp(w, axis=-1).any()]
    zero = [path for path, w in matrices.items() if not w.any()]
    hint = "Draw the initial weights at random: nf.initializers.he_normal, lecun_normal, ..."
    if equal:
        evidence = f"All columns of {check.join_names(equal)} start equal, so all their units learn the same."
        yield Finding("error", equal[0], "symmetric parameters", evidence, hint)
    elif len(matrices) > 1 and len(zero) == len(matrices):
        evidence = "Every weight matrix starts at 0, so the units of a layer stay equal."
        yield Finding("error", zero[0], "symmetric parameters", evidence, hint)


def check_activations(probe: Probe) -> Iterator[Finding]:
    """The standard deviation of no layer's output is tiny or huge at the start.

    probe: of the task.
    """
    _, taps = probe.forward(probe.params, probe.x)
    inputs = [np.std(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(probe.x) if is_floating(leaf)]
    scale = max([1.0, *map(float, inputs)])
    deviations = {path: float(np.std(tap.astype(np.float64))) for path, tap in taps.items() if tap.size > 1}
    huge = next((path for path, deviation in deviations.items() if deviation > 1e3 * scale), None)
    tiny = next((path for path, deviation in deviations.items() if 0 < deviation < 1e-4), None)
    if huge is not None:
        evidence = f"The standard deviation of its output is {deviations[huge]:.2g} at the start; "
        evidence += f"that of the inputs is {scale:.2g}."
        hint = "Use smaller initial weights (he_normal for relu), or a norm between the layers."
        yield Finding("error", huge, "activations explode", evidence, hint)
    elif tiny is not None:
        evidence = f"The standard deviation of its output is {deviations[tiny]:.2g} at the start: the input is lost."
        hint = "Use larger initial weights (he_normal for relu), a norm, or residual connections."
        yield Finding("error", tiny, "activations vanish", evidence, hint)


def check_gradients(probe: Probe) -> Iterator[Finding]:
    """Every parameter gets a gradient, of similar size in every layer.

    probe: of the task.
    """
    loss, grads = probe.loss_and_gradients(probe.params)
    _, perturbed_grads = probe.loss_and_gradients(probe.perturbed)
    grads, perturbed_grads = (paths.flatten(jax.device_get(tree)) for tree in (grads, perturbed_grads))
    _, taps = probe.forward(probe.params, probe.x)
    zero = [path for path in grads if not np.any(grads[path]) and not np.any(perturbed_grads[path])]
    if zero:
        evidence = f"The gradient of {check.join_names(zero)} is exactly 0, also at parameters near by."
        dead = [path for path, tap in taps.items() if tap.size and not tap.any()]
        if dead:
            evidence += f" All outputs of {dead[0]} are 0."
        hint = "Is the layer used? Is its output stopped, rounded or set to 0 by a relu?"
        yield Finding("error", zero[0], "no gradient", evidence, hint)
    sizes = {
        path: float(np.sqrt(np.mean(np.square(grad, dtype=np.float64))))
        for path, grad in weight_matrices(probe, grads).items()
        if grad.any()
    }
    if not sizes or not all(map(np.isfinite, sizes.values())):
        return
    smallest, largest = min(sizes, key=lambda path: sizes[path]), max(sizes, key=lambda path: sizes[path])
    norm = float(np.sqrt(sum(float(np.square(grad, dtype=np.float64).sum()) for grad in grads.values())))
    if norm > 1e4 * max(1.0, abs(float(loss))):
        evidence = f"Its gradient has a root mean square of {sizes[largest]:.2g}; the global norm is {norm:.2g}."
        hint = "Use smaller initial weights, a norm between the layers, or clip=1.0."
        yield Finding("error", largest, "gradients explode", evidence, hint)
    elif sizes[smallest] < 1e-6 * sizes[largest]:
        evidence = f"The root mean square of its gradient is {sizes[smallest]:.2g}, "
        evidence += f"that of {largest} is {sizes[largest]:.2g}."
        hint = "Use he_normal, a norm or residual connections; deep sigmoid or tanh layers saturate."
        yield Finding("error", smallest, "gradients vanish", evidence, hint)


def _varies(y: np.ndarray) -> bool:
    return differ(y[1:], y[:-1])
