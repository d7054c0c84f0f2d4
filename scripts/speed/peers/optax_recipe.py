"""What all libraries on JAX have in common: loss, optimizer, and copies of the state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from . import RATE


def mean_loss(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def optimizer(case: str) -> optax.GradientTransformation:
    if case != "gpt":
        return optax.adam(RATE)
    adamw = optax.adamw(RATE, b2=0.99, weight_decay=0.1, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def matrices(params: Any) -> Any:
    """Weight decay is for weights and tables, as in nanoGPT; Flax's biases of attention have two axes."""
    decays = lambda path, leaf: leaf.ndim >= 2 and "bias" not in jax.tree_util.keystr(path)
    return jax.tree_util.tree_map_with_path(decays, params)


def copies(state: Any) -> Callable[[], Any]:
    """A step donates its state, so each start needs a copy."""
    return lambda: jax.tree.map(jnp.copy, state)
