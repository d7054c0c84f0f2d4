"""How the members of a group run, and which way is the quickest: found by a short probe.

"loop" calls one compiled program for member after member. "vmap" runs `chunk` members side by side in
one program. "threads" does one of these from one Python thread a core: JAX lets go of the
interpreter while a program runs. Members come out the same to rounding.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Key
from nnfunc.sweeps.groups import Group
from nnfunc.sweeps.lanes import lanes
from nnfunc.sweeps.pack import Held, Outcome, Pack, Told, ran, warm
from nnfunc.training.pace import Intervals
from nnfunc.training.task import Build

__all__ = ["WAYS", "Job", "Way", "chosen", "cores", "packs", "run_group"]

WAYS = ("auto", "vmap", "loop", "threads")
MEMORY = 0.25
"""The share of the free memory that the states of members side by side may take."""
COPIES = 6
"""How often a member's state is held while it runs: itself, gradients, moments, temporaries."""


class Way(NamedTuple):
    """kind: "loop" or "vmap" from one thread, "threads" from several. chunk: members a dispatch.

    threads: how many. by_step: one step a dispatch rather than all up to the next report.
    runs_per_second: what a probe measured, where there was one.
    """

    kind: str
    chunk: int
    threads: int = 1
    by_step: bool = False
    runs_per_second: float | None = None

    def __str__(self) -> str:
        how = {"loop": "member after member", "vmap": f"{self.chunk} members side by side"}
        inner = how["loop" if self.chunk == 1 and self.kind != "vmap" else "vmap"]
        threads = f", from {self.threads} threads" if self.threads > 1 else ""
        steps = ", a step a dispatch" if self.by_step else ""
        speed = self.runs_per_second
        return f"{inner}{threads}{steps}" + (f" (probe: {speed:.3g} runs/s)" if speed else "")


class Job(NamedTuple):
    """What every way of running a group needs."""

    build: Build
    group: Group
    keys: Key
    held: Held
    intervals: Intervals


def cores() -> int:
    """How many this process may use."""
    own = getattr(os, "sched_getaffinity", None)
    return len(own(0)) if own else os.cpu_count() or 1


def packs(group: Group, way: Way) -> list[Pack]:
    """The members of a group in packs of the way's chunk: all of one width, so one program."""
    count = len(group.members)
    made = []
    for start in range(0, count, way.chunk):
        places = tuple(range(start, min(start + way.chunk, count)))
        made.append(Pack(group, places, way.chunk - len(places)))
    return made


def run_group(job: Job, way: Way, told: Told | None = None) -> Iterator[Outcome]:
    """The outcomes of the packs of a group, as they come."""
    own = lanes(job.build, job.group, wide=way.kind == "vmap" or way.chunk > 1)
    of = lambda pack: ran(pack, own, job.keys, job.held, job.intervals, way.by_step, told)
    todo = packs(job.group, way)
    if way.threads == 1 or len(todo) == 1:
        yield from map(of, todo)
        return
    warm(todo[0], own, job.keys, job.held, way.by_step)
    with ThreadPoolExecutor(way.threads) as pool:
        try:
            yield from pool.map(of, todo)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def chosen(job: Job, way: str, chunk: int | None) -> Way:
    """The way that the user asked for, or the one that a probe finds the quickest."""
    count = len(job.group.members)
    by_step = not job.group.scanned and _steps_are_quicker(job)
    if way == "loop":
        return Way("loop", 1, 1, by_step)
    most = min(count, chunk) if chunk else _even(count, min(count, _fitting(job)))
    if way == "vmap":
        return Way("vmap", most, 1, by_step)
    threads = min(cores(), count)
    if way == "threads":
        return Way("threads", min(chunk or 1, count), threads, by_step)
    return probed(job, chunk, most, threads, by_step)


def probed(job: Job, chunk: int | None, most: int, threads: int, by_step: bool) -> Way:
    """The quickest of the ways, each timed for some members and steps.

    A way that needs another program is timed only where the whole group is known to take several
    times as long as it takes to compile one.
    """
    count = len(job.group.members)
    loop = Way("loop", 1, 1, by_step)
    if count == 1:
        return loop
    compiling, steps = _warmed(job, loop)
    speed = {loop: _speed(job, loop, steps)}
    ways = [Way("threads", 1, threads, by_step)] if threads > 1 else []
    for way in ways:
        speed[way] = _speed(job, way, steps)
    whole = count / max(speed.values())
    wide = [Way("vmap", most, 1, by_step)]
    if threads > 1:
        share = chunk or _even(count, min(most, -(-count // threads)))
        wide.append(Way("threads", share, threads, by_step))
    for way in wide:
        if way.chunk > 1 and whole > 4 * compiling:
            _warmed(job, way)
            speed[way] = _speed(job, way, steps)
    best = max(speed, key=lambda way: speed[way])
    return best._replace(runs_per_second=speed[best])


def _warmed(job: Job, way: Way) -> tuple[float, int]:
    """Compile; the seconds it took, and how many steps of a member make a probe of about 50 ms."""
    start = time.perf_counter()
    _probe(job, way, 1, 1)
    first = time.perf_counter() - start
    count = min(10, job.intervals.steps)
    start = time.perf_counter()
    _probe(job, way, count, 1)
    each = (time.perf_counter() - start) / count
    return first, max(1, min(job.intervals.steps, round(0.05 / each)))


def _speed(job: Job, way: Way, steps: int) -> float:
    """Runs per second of a way, by the better of two probes of some steps of some members."""
    needed = 2 * way.threads if way.chunk == 1 else way.threads
    best = np.inf
    for _ in range(2):
        start = time.perf_counter()
        members = _probe(job, way, steps, needed)
        best = min(best, (time.perf_counter() - start) / members)
    return steps / job.intervals.steps / best


def _probe(job: Job, way: Way, steps: int, count: int) -> int:
    """Run the first packs for some steps, with nothing in between; how many members ran."""
    intervals = Intervals(steps, steps, steps, steps)
    todo = packs(job.group, way)[:count]
    own = lanes(job.build, job.group, wide=way.kind == "vmap" or way.chunk > 1)
    of = lambda pack: ran(pack, own, job.keys, job.held, intervals, way.by_step)
    if way.threads == 1:
        outcomes = list(map(of, todo))
    else:
        with ThreadPoolExecutor(way.threads) as pool:
            outcomes = list(pool.map(of, todo))
    return sum(len(outcome.members) for outcome in outcomes)


def _even(count: int, most: int) -> int:
    """The width of packs that are about equally full."""
    return -(-count // -(-count // most))


def _steps_are_quicker(job: Job) -> bool:
    """Whether convolutions of XLA's own, slow in a loop on CPU, make a step a dispatch quicker."""
    if jax.default_backend() != "cpu" or job.intervals.steps == 1:
        return False
    times = {}
    for by_step in (False, True):
        way = Way("loop", 1, 1, by_step)
        _probe(job, way, 2, 1)
        start = time.perf_counter()
        _probe(job, way, 2, 1)
        times[by_step] = time.perf_counter() - start
    return times[True] < times[False]


def _fitting(job: Job) -> int:
    """How many members side by side surely fit into the memory that is free."""
    own = lanes(job.build, job.group, wide=False)
    state = jax.eval_shape(own.init, job.group.one(0), job.keys[0], job.held.train)
    size = sum(_bytes(leaf) for leaf in jax.tree.leaves(state))
    free = _free()
    return len(job.group.members) if free is None else max(1, int(MEMORY * free / (COPIES * size)))


def _bytes(leaf: Any) -> int:
    prng = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf.size * (8 if prng else leaf.dtype.itemsize)


def _free() -> float | None:
    """Bytes of memory that the device, or the machine, has to give; None where that is not known."""
    told: Callable[[], Any] = getattr(jax.devices()[0], "memory_stats", lambda: None)
    stats = told() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
