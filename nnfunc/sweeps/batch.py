"""Trials that run together, from step to step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc.base import Key, PyTree
from nnfunc.data.dataset import Data
from nnfunc.sweeps.compiled_trials import Lanes, lanes
from nnfunc.sweeps.grouping import Group
from nnfunc.training.compiled import Carry
from nnfunc.training.intervals import Intervals

__all__ = ["Going", "Held", "Job", "Pack", "Reported", "advance", "keyed", "rows", "warm"]


class Held(NamedTuple):
    """The data of a sweep, put on the device once. train: what steps read. judged: and evaluations."""

    train: Data
    judged: Data

    @staticmethod
    def of(data: Data) -> "Held":
        whole = jax.tree.map(jax.numpy.asarray, replace(data, test=None, codec=None))
        return Held(whole.for_training(), whole)

    @property
    def evaluates(self) -> bool:
        return self.judged.validation is not None


class Pack(NamedTuple):
    """Places of a group that run side by side. padded: copies of the last one, run and forgotten."""

    group: Group
    places: tuple[int, ...]
    padded: int = 0

    @property
    def trials(self) -> list[int]:
        """Their places in the sweep."""
        return [self.group.trials[place] for place in self.places]

    @property
    def width(self) -> int:
        return len(self.places) + self.padded

    def halves(self, multiple: int) -> "list[Pack]":
        """Two packs of one width, a multiple of that, or one where so many are copies."""
        width = -(-self.width // 2 // multiple) * multiple
        parts = [self.places[:width], self.places[width:]]
        return [Pack(self.group, part, width - len(part)) for part in parts if part]


Reported = Callable[[list[int], int, dict[str, np.ndarray]], None]
"""(trials, step, figures [trials]) at every report."""


class Job(NamedTuple):
    """What every execution of running trials of a group needs.

    key: trial -> its key. until: the step to run them to. kept: the programs that were made for the
    group, by width and devices. carries: trial -> its carry on the host, of those that have begun.
    told: called at every report. stops: whether to end at the next report. save: called there too.
    """

    build: Any
    group: Group
    key: Callable[[int], Key]
    held: Held
    intervals: Intervals
    until: int
    kept: dict[Any, Lanes]
    carries: Mapping[int, Carry] = {}
    told: Reported | None = None
    stops: Callable[[], bool] = lambda: False
    save: Callable[["Going"], None] = lambda going: None

    def lanes(self, wide: bool, devices: int = 1) -> Lanes:
        """The programs of the group."""
        if (wide, devices) not in self.kept:
            self.kept[wide, devices] = lanes(self.build, self.group, wide, devices)
        return self.kept[wide, devices]

    def shapes(self) -> Any:
        """What one compilation of the programs is for, besides the number of trials."""
        leaves, structure = jax.tree.flatten((self.held, self.group.one(0)))
        return structure, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)

    def timings(self) -> dict[str, float]:
        """What is known of how long things take, and how many bytes, for data of these shapes.

        Data sets that differ share programs, but a step of one may take many times as long.
        """
        return self.lanes(wide=False).took.setdefault(self.shapes(), {})

    def step(self, trial: int) -> int:
        """How far a trial is."""
        return int(self.carries[trial].state.step) if trial in self.carries else 0


class Going:
    """A pack on its way: its carry after `step` steps, and the figures so far, still on the device.

    It begins where its trials are: before their first step, or as their carries say.
    """

    def __init__(self, job: Job, pack: Pack, own: Lanes):
        self.job, self.pack, self.own = job, pack, own
        places = [*pack.places, *pack.places[-1:] * pack.padded]
        trials = [pack.group.trials[place] for place in places]
        self.numbers = pack.group.pick(places) if own.wide else pack.group.one(places[0])
        self.figures: list[tuple[int, dict[str, Any]]] = []
        begun = [job.carries[m] for m in trials if m in job.carries]
        if begun:
            self.carry = _placed(begun, own, job.key(trials[0]))
            self.step = int(begun[0].state.step)
        else:
            keys = [job.key(trial) for trial in trials]
            key = _stacked(keys) if own.wide else keys[0]
            self.carry, self.step = own.init(self.numbers, key, job.held.train), 0


def advance(going: Going, by_step: bool) -> None:
    """Run a pack to the step of its job. by_step: whether a dispatch is one step."""
    job, own = going.job, going.own
    intervals, held = job.intervals, job.held
    go = own.step if by_step else own.leg
    until = min(job.until, intervals.steps)
    before: Any = ()  # what the part before the one in hand came to
    while going.step < until and not job.stops():
        end, means = min(intervals.next(going.step), until), {}
        while going.step < end:
            count = 1 if by_step else end - going.step
            fresh = going.step == 0 or intervals.logs(going.step)  # a new interval of means begins
            going.carry, means = go(np.int32(count), np.bool_(fresh), going.carry, going.numbers, held.train)
            going.step += count
        # or all would be handed out before the first was done, and nobody could stop it
        jax.block_until_ready(before)
        figures, before = {}, means
        if intervals.logs(going.step):
            figures |= {f"train/{name}": value for name, value in means.items()}
        if held.evaluates and intervals.evaluates(going.step):
            going.carry, judged = own.judge(going.carry, going.numbers, held.judged)
            figures |= {f"validation/{name}": value for name, value in judged.items()}
        if figures:
            going.figures.append((going.step, figures))
            if job.told is not None:
                job.told(going.pack.trials, going.step, _cut(figures, going.pack))
        job.save(going)


def rows(going: Going) -> tuple[list[Carry], list[tuple[int, dict[str, np.ndarray]]]]:
    """Of each trial its carry, and of each report (step, figures [trials]), on the host.

    A carry's key is plain numbers, which NumPy can hold.
    """
    pack, wide = going.pack, going.own.wide
    steps = [step for step, _ in going.figures]
    carry, figures = _fetched((_keyless(going.carry), [own for _, own in going.figures]))
    step = np.int32(going.step)

    def row(place: int) -> Carry:
        own = jax.tree.map(lambda leaf: leaf[place], _stepless(carry)) if wide else carry
        return own._replace(state=own.state._replace(step=step))

    reports = [(step, _cut(own, pack)) for step, own in zip(steps, figures, strict=True)]
    return [row(place) for place in range(len(pack.places))], reports


def warm(job: Job, pack: Pack, own: Lanes, by_step: bool) -> None:
    """Compile all that `advance` calls, so that threads do not do it twice; once for each shape."""
    name = (pack.width, by_step, job.shapes())
    if name in own.warm:
        return
    own.warm.add(name)
    going = Going(job._replace(carries={}), pack, own)
    go = own.step if by_step else own.leg
    carry, _ = go(np.int32(0), np.bool_(True), going.carry, going.numbers, job.held.train)
    if job.held.evaluates:
        own.judge(carry, going.numbers, job.held.judged)


def _fetched(tree: PyTree) -> PyTree:
    """The arrays on the host. On CPU they are there: asking for copies of them would take the time."""
    on_host = jax.default_backend() == "cpu"
    return jax.tree.map(np.asarray, tree) if on_host else jax.device_get(tree)


def _stacked(keys: list[Key]) -> Key:
    """[trials] keys, put together on the host: quicker than to let JAX do it."""
    return keyed(np.stack([jax.random.key_data(key) for key in keys]), keys[0])


def _cut(figures: dict[str, Any], pack: Pack) -> dict[str, np.ndarray]:
    """Figures as [trials], those of copies left out."""
    return {name: np.atleast_1d(np.asarray(value))[: len(pack.places)] for name, value in figures.items()}


def _placed(carries: list[Carry], own: Lanes, like: Key) -> Carry:
    """The carry of a pack of its trials' carries; like: a key of their kind."""
    if own.wide:
        whole = jax.tree.map(lambda *leaves: np.stack(leaves), *map(_stepless, carries))
        whole = whole._replace(state=whole.state._replace(step=carries[0].state.step))
    else:
        whole = carries[0]
    whole = jax.tree.map(jax.numpy.array, whole)  # a copy, for it is going to be donated
    return whole._replace(state=whole.state._replace(key=keyed(whole.state.key, like)))


def keyed(data: PyTree, like: Key) -> PyTree:
    """Plain numbers as keys of the kind of another; those of the old style stay as they are."""
    if not jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        return data
    return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(like)))


def _keyless(carry: Carry) -> Carry:
    return carry._replace(state=carry.state._replace(key=jax.random.key_data(carry.state.key)))


def _stepless(carry: Carry) -> Carry:
    """The carry without its count of steps, which all trials share."""
    return carry._replace(state=carry.state._replace(step=()))
