"""A row of the roster, and what rows are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

KEY = jax.random.key(7)


def sample(*shape: int) -> np.ndarray:
    """Numbers of both signs, none of them round or equal."""
    return np.sin(1 + np.arange(np.prod(shape), dtype=np.float32) * 1.7).reshape(shape) * 1.3


def ids(*shape: int, below: int) -> np.ndarray:
    return (np.arange(np.prod(shape), dtype=np.int32) * 7 % below).reshape(shape)


X = sample(4, 6)
IMAGES = sample(2, 3, 2, 6)
OTHER = sample(4, 7)[:, 1:] * 0.8
SHARES = np.exp(OTHER) / np.exp(OTHER).sum(-1, keepdims=True)
LABELS = ids(4, below=6)
YES = OTHER > 0
CLASS_WEIGHTS = 1 + 0.5 * sample(6)


class Row(NamedTuple):
    """How to call a factory: factory(*args, **kwargs, **numbers), and what to do with the result."""

    args: tuple = ()
    kwargs: dict[str, Any] = {}
    numbers: dict[str, tuple[Any, Any]] = {}
    x: Any = X
    any_width: bool = False
    leading_axes: bool = True
    smooth: bool = True
    tolerance: float = 2e-5
    seed: int = 1  # of the key; another one where bfloat16 rounds badly with it
    order: int = 2  # of the derivatives; 1 for models of layers that have rows themselves
    without: tuple[str, ...] = ()  # laws that cannot hold; the row says why
    then: Callable[[Any], Any] = lambda result: result
    differentiate: bool = False  # by the floats in args, for plain functions
