"""The same train step in several libraries, each in a process of its own: see turns.py.

A library has one file, with a function `contender(case, params, batch)`. It takes nnfunc's initial
parameters as nested dicts of numpy arrays, and a batch (x, labels), and brings both into the layout of
its library. This file imports no library, so a process loads only the one that it measures.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

RATE = 1e-3
LAYERS, HEADS, DIM, VOCABULARY, BLOCK = 4, 4, 128, 65, 64  # of the GPT
ROWS, UNITS = 28, 128  # of the LSTM
EPS = 1e-5  # of the norms
EPOCH_BATCH = 128


class Contender(NamedTuple):
    """start: () -> the state before the first step, anew at each call. step: state -> (state, loss)."""

    start: Callable[[], Any]
    step: Callable[[Any], tuple[Any, Any]]


def epochs(start: Callable[[], Any], step: Callable[[Any, Any], Any], x: Any, labels: Any, order: Any) -> Contender:
    """A contender whose step is a whole epoch, as a loop over NumPy batches is written: it returns the mean loss.

    start: () -> the state. step: (state, batch) -> (state, loss). order: the examples of each batch.
    """

    def epoch(state: Any) -> tuple[Any, Any]:
        total = 0.0
        for rows in order:
            state, loss = step(state, (x[rows], labels[rows]))
            total = total + loss
        return state, total / len(order)

    return Contender(start, epoch)


class Unavailable(Exception):
    """This library cannot run here; the message says why. The comparison goes on without it."""


def layer(tree: Any, index: int) -> Any:
    """One layer of parameters that nnfunc stacks along the first axis."""
    if isinstance(tree, dict):
        return {name: layer(child, index) for name, child in tree.items()}
    return tree[index]


def blocks(params: Any) -> list[Any]:
    """The parameters of each block of the GPT."""
    return [layer(params["blocks"], index) for index in range(LAYERS)]
