"""A sweep from its space to its table."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Key
from nnfunc.data.arrays import Data
from nnfunc.sweeps.draw import settings
from nnfunc.sweeps.groups import Found, evened, grouped
from nnfunc.sweeps.pack import Held, Outcome
from nnfunc.sweeps.plan import Plan, Planned
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.ways import WAYS, Job, chosen, run_group
from nnfunc.training.feed import Feed
from nnfunc.training.loop import inspect_task
from nnfunc.training.pace import Intervals
from nnfunc.training.programs import programs
from nnfunc.training.saving import Best
from nnfunc.training.task import Build

__all__ = ["Progress", "sweep", "sweep_plan"]

Method = Literal["random", "grid", "sobol", "latin", "list"]
Running = Literal["auto", "vmap", "loop", "threads"]


class Progress(NamedTuple):
    """Where a sweep is when some of its members report.

    running: the members that report, at `step` of `steps`. members: all of them; done: those that have
    ended; diverged: those that are known to have diverged. best: the member that ranks first so far,
    with its score and hypers; None before the first. median: of the scores so far. seconds: since the
    start.
    """

    running: list[int]
    step: int
    steps: int
    members: int
    done: int
    diverged: int
    best: int | None
    score: float
    hypers: dict[str, Any]
    median: float
    seconds: float


class _Ready(NamedTuple):
    """A sweep whose arguments are checked."""

    hypers: list[dict[str, Any]]
    keys: Key
    found: Found
    held: Held
    intervals: Intervals
    figure: Best
    plan: Plan


def sweep(
    build: Build,
    space: Any,
    data: Data,
    *,
    steps: int,
    key: Key,
    members: int | None = None,
    method: Method = "random",
    constraint: Callable[[dict[str, Any]], Any] | None = None,
    seeds: int | None = None,
    evaluate_every: int | None = None,
    log_every: int | None = None,
    best: str = "min loss",
    way: Running = "auto",
    chunk: int | None = None,
    on_report: Callable[[Progress], None] | None = None,
) -> Result:
    """Train what `build` makes with many hypers, in few compiled programs: a table and all states.

    build, data, steps, log_every, evaluate_every: as for `nf.train`; the last two are a tenth of the
    run by default. key: of the sweep. Member i is the run `nf.train(build, hypers_i, data, steps=steps,
    key=jax.random.fold_in(key, i))`, to rounding: whatever the way, the chunk and the other members.
    All see the data in the same order.
    space: a dict, name -> a list, range or array of options; a distribution (`nf.uniform`,
    `nf.log_uniform`, `nf.int_uniform`, `nf.choice`); a function of the other values, h -> value; or
    one fixed value, a tuple too. Or a list of dicts, each the hypers of a setting. Or a function
    that proposes, key -> dict.
    members: how many settings to draw. method: "random"; "grid", all combinations; "sobol" and "latin",
    which fill the space more evenly (scipy.stats.qmc); "list". constraint: h -> whether a setting is
    wanted. seeds: how often each setting is run, with the keys fold_in(key, seed), in [1, ...).
    best: what ranks the members, such as "max accuracy": their last value on the validation split, or,
    where there is none, on the training data since the last report.
    way: "vmap" runs members side by side, `chunk` at a time; "loop" one after another through one
    program; "threads" from a Python thread a core; "auto" takes the quickest by a short probe. Values
    that set shapes, such as widths, and those that are no numbers make groups, with programs of their
    own. on_report: called at every report; then the host waits for it.
    Raises: ValueError and TypeError for arguments that do not fit. A member that diverges is written
    down, as one whose hypers build refuses, and disturbs no other.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8, validation=(x, 3 * x))
    >>> space = {"rate": [0.01, 0.1, 1e9]}
    >>> result = nf.sweep(build, space, data, steps=50, method="grid", key=jax.random.key(0))
    >>> [row["rate"] for row in result.table()], result.diverged
    ([0.1, 0.01, 1000000000.0], {2: 3})
    """
    check.choice("sweep", WAYS, way=way)
    if chunk is not None:
        check.size("sweep", chunk=chunk)
    start = time.perf_counter()
    ready = _ready(
        build, space, data, steps, key, members, method, constraint, seeds, evaluate_every,
        log_every, best,
    )  # fmt: skip
    watch = None if on_report is None else _Watch(ready, on_report, start)
    outcomes: list[Outcome] = []
    planned: list[Planned] = []
    for group in ready.found.groups:
        job = Job(build, group, ready.keys, ready.held, ready.intervals)
        own = run_group(job, way, chunk, watch)
        planned.append(Planned(group.static, group.members, own.way))
        outcomes += own.outcomes
    plan = replace(ready.plan, groups=planned)
    return _result(ready, plan, outcomes, key, time.perf_counter() - start)


def sweep_plan(
    build: Build,
    space: Any,
    data: Data,
    *,
    steps: int,
    key: Key,
    members: int | None = None,
    method: Method = "random",
    constraint: Callable[[dict[str, Any]], Any] | None = None,
    seeds: int | None = None,
    way: Running = "auto",
    chunk: int | None = None,
) -> Plan:
    """What `nf.sweep` would do with these arguments, without a step of it: `print` it.

    It says which values the programs take as arguments, which make groups and why, and how many
    members each has. The way of "auto" is found by a probe, so only `Result.plan` knows it.
    Raises: what `nf.sweep` raises before it runs.

    >>> def build(h):
    ...     model = nf.mlp([4, h["width"], 2])
    ...     return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["rate"]))
    >>> data = nf.data.arrays((np.ones((8, 4), np.float32), np.arange(8) % 2), batch_size=4)
    >>> space = {"width": [8, 16], "rate": [0.1, 0.2, 0.3]}
    >>> print(nf.sweep_plan(build, space, data, steps=5, method="grid", key=jax.random.key(0),
    ...                     way="vmap"))
    6 runs of 5 steps: 6 settings
    arguments of the program: rate
    makes groups: width (...)
    group 0 (width=8), 3 members: 3 members side by side
    group 1 (width=16), 3 members: 3 members side by side
    """
    check.choice("sweep", WAYS, way=way)
    ready = _ready(
        build, space, data, steps, key, members, method, constraint, seeds, None, None, None
    )
    if way == "auto":
        return ready.plan
    planned = []
    for group in ready.found.groups:
        followed = group._replace(scanned=True)  # no convolution is timed
        job = Job(build, followed, ready.keys, ready.held, ready.intervals)
        planned.append(Planned(group.static, group.members, chosen(job, way, chunk)[0]))
    return replace(ready.plan, groups=planned)


def _ready(
    build: Build, space: Any, data: Any, steps: int, key: Key, members: int | None, method: str,
    constraint: Any, seeds: int | None, evaluate_every: int | None, log_every: int | None,
    best: str | None,
) -> _Ready:  # fmt: skip
    """Everything that can be said before a step is run."""
    check.size("sweep", steps=steps)
    check.key("sweep", key)
    if seeds is not None:
        check.size("sweep", seeds=seeds)
    if not isinstance(data, Data):
        wanted = "a data set in memory, such as nf.data.arrays((x, y), batch_size=32)"
        check.fail("sweep", f"data should be {wanted}, got {check.describe(data)}.", kind=TypeError)
    figure = Best.of(best or "min loss")
    tenth = max(1, steps // 10)
    intervals = Intervals.of(steps, log_every or tenth, evaluate_every or tenth, steps)
    rows = evened(settings(space, method, members, key, constraint))
    runs = seeds or 1
    hypers = [row for row in rows for _ in range(runs)]
    places = np.arange(len(hypers), dtype=np.uint32)
    folds = places if seeds is None else places % np.uint32(runs)
    keys = jax.vmap(lambda fold: jax.random.fold_in(key, fold))(folds)
    held = Held.of(data)
    found = grouped(build, hypers, key, held.train)
    for group in found.groups:  # as nf.train does for the run alone
        own = programs(build, group.leaves, group.treedef)
        inspect_task(own, group.one(0), keys[group.members[0]], Feed(held.judged), figure)
    planned = [Planned(group.static, group.members) for group in found.groups]
    plan = Plan(len(rows), runs, steps, found.traced, found.static, found.refused, planned)
    return _Ready(hypers, keys, found, held, intervals, figure, plan)


class _Watch:
    """Hands on_report what is known at every report, one at a time."""

    def __init__(self, ready: _Ready, on_report: Callable[[Progress], None], start: float):
        self.ready, self.on_report, self.start = ready, on_report, start
        self.done, self.lock = 0, threading.Lock()
        kind = "validation" if ready.held.evaluates else "train"
        self.rank = f"{kind}/{ready.figure.metric}"
        self.scores = np.full(len(ready.hypers), math.nan)
        self.bad: set[int] = set()

    def __call__(self, members: list[int], step: int, figures: dict[str, np.ndarray]) -> None:
        if self.rank not in figures:
            return
        with self.lock:
            self.scores[members] = figures[self.rank]
            if step == self.ready.intervals.steps:
                self.done += len(members)
            self.bad |= {m for m in members if not np.isfinite(self.scores[m])}
            cost = self.scores if self.ready.figure.mode == "min" else -self.scores
            good = np.isfinite(cost)
            best = int(np.argmin(np.where(good, cost, np.inf))) if good.any() else None
            score = math.nan if best is None else float(self.scores[best])
            hypers = {} if best is None else dict(self.ready.hypers[best])
            median = float(np.median(self.scores[good])) if good.any() else math.nan
            seconds = time.perf_counter() - self.start
            self.on_report(
                Progress(
                    members, step, self.ready.intervals.steps, len(cost), self.done,
                    len(self.bad), best, score, hypers, median, seconds,
                )
            )  # fmt: skip


def _result(ready: _Ready, plan: Plan, outcomes: list[Outcome], key: Key, seconds: float) -> Result:
    count, names = len(ready.hypers), {n: None for o in outcomes for n in o.curves}
    at = range(1, ready.intervals.steps + 1)
    logged = np.asarray([step for step in at if ready.intervals.logs(step)])
    judged = np.asarray([step for step in at if ready.intervals.evaluates(step)])
    steps = {"train": logged} | ({"validation": judged} if ready.held.evaluates else {})
    curves = {
        name: np.full((count, len(steps[name.partition("/")[0]])), np.nan, np.float32)
        for name in names
    }
    diverged = {}
    for outcome in outcomes:
        for name, curve in outcome.curves.items():
            curves[name][outcome.members] = curve
        for member, step in zip(outcome.members, outcome.state.diverged_at, strict=True):
            if step >= 0:
                diverged[member] = int(step)
    kind = "validation" if ready.held.evaluates else "train"
    rank = curves[f"{kind}/{ready.figure.metric}"]
    for member in range(count):  # a loss of held-out examples may be the first to break
        if member not in diverged and member not in ready.found.refused:
            broken = np.flatnonzero(~np.isfinite(rank[member]))
            if broken.size and not np.isfinite(rank[member, -1]):
                diverged[member] = int(steps[kind][broken[0]])
    scores = rank[:, -1].astype(np.float64)
    scores[list(diverged)] = np.nan
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    impl = str(jax.random.key_impl(key)) if typed else None
    return Result(
        ready.hypers, ready.figure, plan.seeds, plan, steps, curves, scores,
        dict(sorted(diverged.items())), ready.found.refused, seconds, outcomes, impl,
    )  # fmt: skip
