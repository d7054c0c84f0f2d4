"""Muon: matrices move by their orthogonalized momentum, all else by AdamW."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from nnfunc import check
from nnfunc.base import Array, Params, PyTree, Scalar, Schedule
from nnfunc.errors import MissingPackageError
from nnfunc.optimizers.gradient_transforms import by_adam, check_adam, optimizer
from nnfunc.optimizers.optimizer import Optimizer
from nnfunc.optimizers.weight_decay import Decay
from nnfunc.paths import Leaves, fill_missing, keep_where, leaves_mask, where_on


class MuonState(NamedTuple):
    """matrices: optax's state of Muon. others: that of Adam."""

    matrices: PyTree
    others: PyTree


def muon(
    learning_rate: Scalar | Schedule,
    *,
    momentum: Scalar = 0.95,
    nesterov: bool = True,
    rms: Scalar = 0.2,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Decay = 1e-2,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
    on: Leaves = "matrices",
    stacked: Leaves = (),
) -> Optimizer:
    """Matrices by Muon, all else by AdamW with b1 and b2; the learning rate and the decay are for both.

    m = momentum * m + (1 - momentum) * gradient, with nesterov one step ahead of that;
    parameter -= learning_rate * (rms * sqrt(max(in, out)) * orthogonal(m) + weight_decay * parameter)
    orthogonal(m), by five steps of Newton and Schulz, has singular values of about 1, between 0.7 and
    1.2.
    rms: the root mean square of the step's entries, at least 0; 0.2, the default, is about that of AdamW, so that
        one learning rate fits both.
    nesterov: whether m is taken one step ahead.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    on: the leaves among which Muon takes the matrices (by name, see `nf.optimizers`): [in, out]; [n, in, out] of a
        `repeat` or of a kernel [width, in, out], as n matrices; and kernels of four and more axes, of which all but
        the last count as in.
    stacked: leaves whose first axis is layers, whatever their axes. Muon is meant for hidden layers: on="blocks/**"
        leaves embeddings and the last layer to AdamW; on="blocks/3/**" is one layer of a `repeat`.
    momentum, b1, b2: in [0, 1).
    eps: above 0. For infinite or NaN gradients its updates are NaN.
    Where the squares of a matrix sum to more than float32 holds, from about 1e19 on, its update is 0, in optax too:
    limit them with clip. Gradients far below eps make small updates.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Raises: ValueError when a number is out of its range, ImportError when optax is older than 0.2.6.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982, equation 4;
    the steps are those of optax.contrib.

    >>> optimizer = nf.optimizers.muon(1.0, rms=1.0, weight_decay=0.0)
    >>> params = {"weight": jnp.zeros((2, 2)), "bias": jnp.zeros(1)}
    >>> grads = {"weight": jnp.array([[3.0, 0.0], [0.0, 3.0]]), "bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(update, 3) for update in updates["bias"].tolist()]
    [-1.0]
    """
    check.number("muon", 0, 1, open_high=True, momentum=momentum)
    check.number("muon", 0, rms=rms)
    check.number("muon", 0, open_low=True, eps=eps)  # a matrix without gradient is divided by it
    check_adam("muon", b1, b2, eps)
    _contrib()

    def chain(number, decay):
        adam = by_adam(number(b1), number(b2), number(eps))
        numbers = {"beta": number(momentum), "eps": number(eps), "nesterov": nesterov}
        return _by_muon(numbers, number(rms), adam, on, stacked), decay

    return optimizer("muon", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def _contrib() -> Any:
    """optax.contrib, of a release whose Muon takes more than plain matrices."""
    try:
        from optax import contrib

        contrib.MuonDimensionNumbers  # noqa: B018  came with 0.2.6
    except (ImportError, AttributeError) as error:
        expected, hint = "it needs optax 0.2.6 or later", "Run pip install -U optax."
        actual = str(optax.__version__)
        raise MissingPackageError(where="muon", expected=expected, actual=actual, hint=hint) from error
    return contrib


def _by_muon(
    numbers: dict[str, Any], rms: Array, others: optax.GradientTransformation, on: Leaves, stacked: Leaves
) -> optax.GradientTransformation:
    """optax's scale_by_muon for the matrices, with steps of the given size; others for the rest."""
    contrib = _contrib()

    def parts(params: Params, *trees: PyTree) -> Any:
        """Muon itself, the axes of its leaves, and of each tree its leaves and the others."""
        picked = leaves_mask("muon: on", params, on, by_layer=True)
        axes = _axes(params, picked, stacked)
        chosen = jax.tree.map(lambda leaf, dims: dims is not None, params, axes)
        by_layer = jax.tree.map(lambda is_matrix, on: on if is_matrix else False, chosen, picked)
        rest = jax.tree.map(lambda on: on is not True, by_layer)  # a leaf of which some layers are matrices is in both
        muon = contrib.scale_by_muon(**numbers, weight_dimension_numbers=axes)
        return muon, axes, by_layer, *((keep_where(tree, chosen), keep_where(tree, rest)) for tree in trees)

    def init(params):
        muon, *_, (matrices, rest) = parts(params, params)
        with jax.numpy_dtype_promotion("standard"):
            return MuonState(muon.init(matrices), others.init(rest))

    def update(updates, state, params=None):
        muon, axes, by_layer, (matrices, rest) = parts(params, updates)
        with jax.numpy_dtype_promotion("standard"):  # optax's Muon does not run under "strict"
            matrices, muon_state = muon.update(matrices, state.matrices)
        rest, others_state = others.update(rest, state.others)

        def sized(update, dims):
            into = math.prod(update.shape[axis] for axis in dims.reduction_axis)
            return update * (rms * math.sqrt(max(into, update.shape[-1])))

        matrices = jax.tree.map(sized, matrices, axes)
        new = jax.tree.map(where_on, by_layer, fill_missing(params, matrices), fill_missing(params, rest))
        return new, MuonState(muon_state, others_state)

    return optax.GradientTransformation(init, update)


def _axes(params: Params, picked: PyTree, stacked: Leaves) -> PyTree:
    """The input and output axes of each leaf, as optax's MuonDimensionNumbers; None for leaves that are no matrix."""
    contrib = _contrib()

    def axes(leaf, named, picked, layers):
        stacks = sum(size > 1 for size in np.shape(picked))  # the axes of layers, where only some of them are picked
        first, last = max(stacks, 1 if layers else 0), leaf.ndim - 1
        if picked is False or not named or last - first < 1:
            return None
        first = 1 if leaf.ndim == 3 else first
        return contrib.MuonDimensionNumbers(tuple(range(first, last)), (last,))

    named, layers = leaves_mask("muon", params, "matrices"), leaves_mask("muon: stacked", params, stacked)
    return jax.tree.map(axes, params, named, picked, layers)
