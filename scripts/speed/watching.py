"""What it costs to look at every layer of a step: watched and plain steps, timed in turns."""

import time
from typing import Any

import jax
import numpy as np

import nnfunc as nf

from .cases import RATE, Case
from .timing import quartiles

EVERY = 50
"""One step of so many is watched: the share of time is that of such a run."""


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times of a plain and of a watched step of `nf.train`, from the same state, and the share.

    A round is a watched step after as many plain ones as last about 20 ms, each with one wait.
    """
    init, step = nf.trainer(case.build)
    hypers, batch = {"lr": np.float32(RATE)}, jax.device_put(case.batch())
    programs = {
        "plain": jax.jit(lambda state, batch: step(hypers, state, batch), donate_argnums=0),
        "watched": jax.jit(lambda state, batch: step(hypers, state, batch, watch=True), donate_argnums=0),
    }
    state = jax.jit(lambda: init(hypers, jax.random.key(0)))()
    times: dict[str, list[float]] = {name: [] for name in programs}

    def run(name, state, count):
        start = time.perf_counter()
        for _ in range(count):
            state, metrics = programs[name](state, batch)
        jax.block_until_ready((state, metrics))
        return state, (time.perf_counter() - start) / count

    for name in programs:
        state, _ = run(name, state, 3)
    state, each = run("plain", state, 5)
    count = max(1, min(100, round(0.02 / each)))
    for _ in range(rounds):
        state, seconds = run("plain", state, count)
        times["plain"].append(seconds)
        state, seconds = run("watched", state, 1)
        times["watched"].append(seconds)
    plain, watched = (float(np.median(times[name])) for name in ("plain", "watched"))
    return {
        "title": case.title,
        "plain_ms": quartiles(times["plain"]),
        "watched_ms": quartiles(times["watched"]),
        "share": (watched - plain) / (EVERY * plain),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table for docs/benchmarks.md."""
    machine = rows[0]["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, jax {machine['jax']}, {machine['date']}"
    print(f"Watching every layer once in {EVERY} steps: {where}\n")
    print("| case | malloc | plain ms | watched ms | fraction of the time |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        plain, watched = ("{1:.2f} ({0:.2f}-{2:.2f})".format(*row[k]) for k in ("plain_ms", "watched_ms"))
        print(f"| {row['case']} | {row['malloc']} | {plain} | {watched} | {row['share']:.1%} |")
