"""Train steps, timed in turns in one process."""

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import flops as count_flops

from . import hlo
from .cases import Case, Side, ours, theirs, trained

STEPS_COMPARED = 4
"""The losses of so many steps are compared, so gradients and updates are the same too."""


class Program(NamedTuple):
    """A compiled step and the state that it goes on from."""

    step: Any
    state: Any
    compile_seconds: float
    figures: dict[str, int]


def measure(case: Case, rounds: int, seconds: float = 0.02) -> dict[str, Any]:
    """Time the sides of a case in turns: times of a step, their ratio, what the programs are.

    A round is as many steps of each side as take about `seconds`, with one wait at their end; which
    side goes first changes from round to round. Rounds are short, so that what else the machine does
    falls on both sides alike.
    """
    batch = jax.device_put(case.batch())
    sides = {name: make(case) for name, make in {"nnfunc": ours, "trainer": trained, "plain": theirs}.items()}
    programs = {name: compiled(side, batch) for name, side in sides.items()}
    losses = agree(sides, programs, batch)
    load = os.getloadavg()[0]
    steps, times, faults = {}, {name: [] for name in programs}, {name: [] for name in programs}
    states = {name: program.state for name, program in programs.items()}

    def run(name, count):
        state, step = states[name], programs[name].step
        before, start = page_faults(), time.perf_counter()
        for _ in range(count):
            state, _ = step(state, batch)
        states[name] = jax.block_until_ready(state)
        faults[name].append((page_faults() - before) / count)
        return (time.perf_counter() - start) / count

    for name in programs:
        run(name, 2)
        steps[name] = max(1, min(1000, round(seconds / run(name, 3))))
    for _, name in in_turns(programs, rounds):
        times[name].append(run(name, steps[name]))

    return {
        "title": case.title,
        "bar": case.bar,
        "rounds": rounds,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "losses": losses,
        "ratio": ratio(times["nnfunc"], times["plain"]),
        "trainer": ratio(times["trainer"], times["plain"]),
        "paired": paired(times["nnfunc"], times["plain"]),
        "sides": {
            name: {
                "ms": dict(zip(("low", "median", "high"), quartiles(times[name]), strict=True)),
                "steps_a_round": steps[name],
                "page_faults": round(float(np.median(faults[name])), 1),
                "compile_seconds": round(program.compile_seconds, 2),
                **program.figures,
            }
            for name, program in programs.items()
        },
    }


def in_turns(names: Iterable[Any], rounds: int, warm: int = 0) -> Iterator[tuple[int, Any]]:
    """Pairs (round, name): every name once a round, in an order that turns around each time.

    rounds: from 0 on. warm: rounds before them, with negative numbers, which should not count.
    """
    names = list(names)
    for turn in range(-warm, rounds):
        for name in names[:: -1 if turn % 2 else 1]:
            yield turn, name


def agree(sides: dict[str, Side], programs: dict[str, Program], batch: Any) -> dict[str, list[float]]:
    """The losses of the first steps of each side. Raises: RuntimeError when they are not the same."""
    losses = {}
    for name, side in sides.items():
        state, losses[name] = side.init(), []
        for _ in range(STEPS_COMPARED):
            state, loss = programs[name].step(state, batch)
            losses[name].append(float(loss))
    for name in losses:
        if not np.allclose(losses[name], losses["plain"], rtol=1e-4, atol=0):
            raise RuntimeError(f"the sides do not calculate the same: {losses}")
    return losses


def compiled(side: Side, batch: Any) -> Program:
    """The step, compiled ahead of time, so that its text and memory are known."""
    state = side.init()
    start = time.perf_counter()
    step = side.step.lower(state, batch).compile()
    seconds = time.perf_counter() - start
    return Program(step, state, seconds, hlo.figures(step) | {"flops": flops(side, batch)})


def flops(side: Side, batch: Any) -> int:
    """Of one step, loops followed: XLA's own estimate counts the body of a loop once."""
    return count_flops.count(side.step, jax.eval_shape(side.init), batch)


def page_faults() -> int:
    """Pages that this process has been given so far; 0 where that is not known."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def quartiles(times: list[float]) -> list[float]:
    """The lower quartile, the median and the upper quartile, in milliseconds."""
    return [round(1e3 * float(t), 3) for t in np.quantile(times, (0.25, 0.5, 0.75))]


def ratio(ours: list[float], theirs: list[float], draws: int = 2000) -> dict[str, float]:
    """The ratio of the medians, and a 90 % interval of it by drawing rounds again (bootstrap)."""
    a, b = np.asarray(ours), np.asarray(theirs)
    picks = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    again = np.median(a[picks], axis=1) / np.median(b[picks], axis=1)
    low, high = np.quantile(again, (0.05, 0.95))
    value = np.median(a) / np.median(b)
    return {"value": round(float(value), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def paired(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' own ratios: it bears a machine that is not quiet."""
    return round(float(np.median(np.asarray(ours) / np.asarray(theirs))), 3)
