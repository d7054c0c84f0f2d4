"""How the members of a group run, and which way is the quickest: found by a short probe.

"loop" calls one compiled program for member after member. "vmap" runs `chunk` members side by side in
one program. "threads" does one of these from one Python thread a core: JAX lets go of the
interpreter while a program runs. Members come out the same to rounding.
"""

import os
import time
import warnings
from collections.abc import Callable
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
SHORT = 5.0
"""A sweep that takes fewer seconds has its own first members as the probe."""
COMPILES = 4.0
"""How many times as long as compiling took a sweep has to last to try a further program."""
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

    @property
    def wide(self) -> bool:
        """Whether its program has an axis of members."""
        return self.kind == "vmap" or self.chunk > 1

    def __str__(self) -> str:
        how = {"loop": "member after member", "vmap": f"{self.chunk} members side by side"}
        inner = how["vmap" if self.wide else "loop"]
        threads = f", from {self.threads} threads" if self.threads > 1 else ""
        steps = ", a step a dispatch" if self.by_step else ""
        speed = self.runs_per_second
        return f"{inner}{threads}{steps}" + (f" (probe: {speed:.3g} runs/s)" if speed else "")


class Ran(NamedTuple):
    """How a group ran, and what came of its packs."""

    way: Way
    outcomes: list[Outcome]


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


def packs(group: Group, way: Way, after: int = 0) -> list[Pack]:
    """The members of a group from place `after` on, in packs of one width, so one program."""
    count = len(group.members)
    made = []
    for start in range(after, count, way.chunk):
        places = tuple(range(start, min(start + way.chunk, count)))
        made.append(Pack(group, places, way.chunk - len(places)))
    return made


def run_group(job: Job, way: str, chunk: int | None, told: Told | None = None) -> Ran:
    """Run a group in the way asked for, or in the one that a probe finds the quickest."""
    own, first = chosen(job, way, chunk, told)
    return Ran(own, [*first, *_run(job, own, packs(job.group, own, len(first)), told)])


def chosen(
    job: Job, way: str, chunk: int | None, told: Told | None = None
) -> tuple[Way, list[Outcome]]:
    """The way to go, and the outcomes of the first members, where choosing it has run them."""
    count = len(job.group.members)
    by_step = not job.group.scanned and _steps_are_quicker(job)
    most = min(count, chunk) if chunk else _even(count, min(count, _fitting(job)))
    threads = min(cores(), count)
    if way == "vmap":
        return Way("vmap", most, 1, by_step), []
    if way == "threads":
        return Way("threads", min(chunk or 1, count), threads, by_step), []
    loop = Way("loop", 1, 1, by_step)
    if way == "loop" or count == 1:
        return loop, []
    spread = [Way("threads", 1, threads, by_step)] if threads > 1 else []
    wide = [Way("vmap", most, 1, by_step)] if most > 1 else []
    share = min(most, -(-count // threads))
    if threads > 1 and share > 1:
        wide.append(Way("threads", chunk or _even(count, share), threads, by_step))
    return probed(job, [loop, *spread], wide, told)


def probed(
    job: Job, narrow: list[Way], wide: list[Way], told: Told | None = None
) -> tuple[Way, list[Outcome]]:
    """The quickest of the ways; the first of narrow is the loop.

    In a short sweep the first members are the probe: they are run whole, and their outcomes kept. In a
    long one each way is timed for some steps. Ways that need a further program are timed only where the
    sweep takes several times as long as it took to compile the first.
    """
    count, loop = len(job.group.members), narrow[0]
    each, steps = _warmed(job, loop)
    whole, speed, first = each * count, {}, []
    if whole < SHORT:
        for way in [*narrow, *narrow]:  # in two turns, where there are enough members
            todo = packs(job.group, way, len(first))[: 2 * way.threads]
            if len(todo) == 2 * way.threads:
                start = time.perf_counter()
                first += _run(job, way, todo, told, warmed=True)
                now = len(todo) / (time.perf_counter() - start)
                speed[way] = max(now, speed.get(way, 0.0))
    else:
        speed = {way: _speed(job, way, steps) for way in narrow}
        compiling = lanes(job.build, job.group, wide=False).took["compile"]
        for way in wide:
            if count / max(speed.values()) > COMPILES * compiling:
                speed[way] = _speed(job, way, _warmed(job, way)[1])
    best = max(speed, key=lambda way: speed[way]) if speed else loop
    return best._replace(runs_per_second=speed.get(best)), first


def _run(
    job: Job, way: Way, todo: list[Pack], told: Told | None = None, warmed: bool = False
) -> list[Outcome]:
    """The outcomes of packs, in their order. Packs that do not fit into the memory are halved."""
    own = lanes(job.build, job.group, wide=way.wide)
    width = way.chunk

    def of(pack: Pack) -> list[Outcome]:
        nonlocal width
        if pack.width > width:
            return [outcome for half in pack.halves() for outcome in of(half)]
        try:
            return [ran(pack, own, job.keys, job.held, job.intervals, way.by_step, told)]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or pack.width == 1:
                raise
        width = min(width, -(-pack.width // 2))
        problem = f"{pack.width} members side by side do not fit into the memory"
        warnings.warn(f"sweep: {problem}; going on with {width} at a time.", stacklevel=2)
        return of(pack)

    if way.threads == 1 or len(todo) < 2:
        return [outcome for pack in todo for outcome in of(pack)]
    if not warmed:
        warm(todo[0], own, job.keys, job.held, way.by_step)
    with ThreadPoolExecutor(way.threads) as pool:
        try:
            return [outcome for outcomes in pool.map(of, todo) for outcome in outcomes]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _warmed(job: Job, way: Way) -> tuple[float, int]:
    """Compile; then how long a run takes, and how many steps make a probe of about 50 ms."""
    own = lanes(job.build, job.group, wide=way.wide)
    start = time.perf_counter()
    warm(packs(job.group, way)[0], own, job.keys, job.held, way.by_step)
    took = time.perf_counter() - start
    own.took["compile"] = max(took, own.took.get("compile", 0.0))
    count = min(10, job.intervals.steps)
    start = time.perf_counter()
    _probe(job, way, count, 1)
    each = (time.perf_counter() - start) / count
    return each * job.intervals.steps, max(1, min(job.intervals.steps, round(0.05 / each)))


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
    short = job._replace(intervals=Intervals(steps, steps, steps, steps))
    outcomes = _run(short, way, packs(job.group, way)[:count], warmed=True)
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
