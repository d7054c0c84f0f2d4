"""Runs per second of a sweep: one after another, and each way of running many, timed in turns."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import nnfunc as nf
from nnfunc.sweeps.ways import cores

from .timing import quartiles, ratio

STEPS = 200
TRAINED = 4
"""So many runs stand for all where `nf.train` is called for each."""


def build(h: dict[str, Any]) -> nf.Task:
    model = nf.mlp([64, 64, 10])
    return nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]))


def digits() -> nf.data.Data:
    own = nf.data.digits()
    return nf.data.arrays(own.train, batch_size=64, validation=own.validation)


def measure(members: int, rounds: int) -> dict[str, Any]:
    """Seconds of a whole `nf.sweep` of so many members, way by way, programs compiled before.

    Each run is 200 steps of 64-64-10 on the digits with one evaluation at its end. Which way goes
    first changes from round to round.
    """
    data, key = digits(), jax.random.key(0)
    space = {"lr": nf.log_uniform(1e-4, 1e-2)}
    every: dict[str, Any] = {"steps": STEPS, "log_every": STEPS, "evaluate_every": STEPS}
    last: dict[str, nf.sweeps.Result] = {}

    def swept(name: str, **options: Any) -> Callable[[], int]:
        def run() -> int:
            last[name] = nf.sweep(build, space, data, key=key, members=members, **every, **options)
            return members

        return run

    def trained() -> int:
        for i in range(TRAINED):
            own = jax.random.fold_in(key, i)
            nf.train(
                build, last["one after another"].hypers[i], data, key=own, loop="scan", **every
            )
        return TRAINED

    half = -(-members // cores())
    sides = {
        "one after another": swept("one after another", way="loop"),
        "nf.train for each": trained,
        "side by side": swept("side by side", way="vmap"),
        "threads": swept("threads", way="threads"),
        "threads, side by side": swept("threads, side by side", way="threads", chunk=half),
        "auto": swept("auto", way="auto"),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):  # the first compiles
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            count = sides[name]()
            if turn:
                times[name].append((time.perf_counter() - start) / count)
    agree(last)
    one = times["one after another"]
    return {
        "members": members,
        "auto": str(last["auto"].plan.groups[0].way),
        "sides": {
            name: {
                "ms": quartiles(own),
                "runs_per_second": 1 / float(np.median(own)),
                "speed": ratio(one, own),
            }
            for name, own in times.items()
        },
    }


def agree(results: dict[str, Any]) -> None:
    """Every way gives the same scores. Raises: RuntimeError when one does not."""
    first, *others = results.values()
    for other in others:
        if not np.allclose(first.scores, other.scores, rtol=0.05, equal_nan=True):
            raise RuntimeError("the ways do not calculate the same")


def show(rows: list[dict[str, Any]]) -> None:
    """The table for docs/benchmarks.md."""
    machine = rows[0]["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, jax {machine['jax']}, {machine['date']}"
    print(f"Runs of {STEPS} steps, 64-64-10 on the digits: {where}\n")
    print("| members | way | runs per second | of one after another (90 % interval) |")
    print("| --- | --- | --- | --- |")
    for row in rows:
        for name, side in row["sides"].items():
            speed = "{value:.2f} ({low:.2f}-{high:.2f})".format(**side["speed"])
            how = f"auto: {row['auto'].partition(' (probe')[0]}" if name == "auto" else name
            print(f"| {row['members']} | {how} | {side['runs_per_second']:.1f} | {speed} |")
