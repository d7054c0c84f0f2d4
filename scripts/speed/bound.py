"""How much of plain JAX's LSTM step its matrix products alone are: less no layer can make of it.

Both sides calculate them, one after another in time, each as large as a step of the sequence.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import cases
from .timing import compiled, in_turns, quartiles, ratio

TIME, BATCH, ROWS, DIM = 28, 128, 28, 128


@jax.jit
def products(x: Any, weight: Any, recurrent: Any) -> Any:
    """x [time, batch, rows]: the products of a step forward and backward, and little else."""
    pre = x.reshape(TIME * BATCH, ROWS) @ weight
    h = pre[:BATCH, :DIM]
    h = jax.lax.fori_loop(0, TIME, lambda _, h: (h @ recurrent)[:, :DIM], h)
    back = lambda _, gates: jnp.tile(gates @ recurrent.T, (1, 4))
    gates = jax.lax.fori_loop(0, TIME, back, jnp.tile(h, (1, 4)))
    every = jnp.tile(gates, (TIME, 1)) + pre
    before = every[:, :DIM]
    return x.reshape(TIME * BATCH, ROWS).T @ every, before.T @ every


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of the products and of the plain step, in turns in one process."""
    case = cases.lstm()
    batch = jax.device_put(case.batch())
    program = compiled(cases.theirs(case), batch)
    state, x = program.state, batch[0].swapaxes(0, 1)
    draw = np.random.default_rng(0)
    shapes = (ROWS, 4 * DIM), (DIM, 4 * DIM)
    weights = [jnp.asarray(draw.normal(0, 0.05, shape).astype(np.float32)) for shape in shapes]
    times: dict[str, list[float]] = {"products": [], "plain": []}
    for turn, name in in_turns(times, rounds, warm=2):
        start = time.perf_counter()
        if name == "plain":
            state, _ = program.step(state, batch)
            jax.block_until_ready(state)
        else:
            jax.block_until_ready(products(x, *weights))
        if turn >= 0:
            times[name].append(time.perf_counter() - start)
    figures = {name: quartiles(own) for name, own in times.items()}
    return figures | {"share": ratio(times["products"], times["plain"])}


def show(figures: dict[str, Any]) -> None:
    """One sentence."""
    milliseconds = {n: "{1:.2f} ms ({0:.2f}-{2:.2f})".format(*figures[n]) for n in ("products", "plain")}
    share = "{value:.2f} ({low:.2f}-{high:.2f})".format(**figures["share"])
    print(f"LSTM: products {milliseconds['products']}, plain step {milliseconds['plain']}, {share}")
