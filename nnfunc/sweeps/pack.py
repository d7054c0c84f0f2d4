"""Members that run together, from their first step to their last."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc.base import Key, PyTree
from nnfunc.data.arrays import Data
from nnfunc.sweeps.groups import Group
from nnfunc.sweeps.lanes import Lanes
from nnfunc.training.pace import Intervals
from nnfunc.training.programs import Carry

__all__ = [
    "Going",
    "Held",
    "Outcome",
    "Pack",
    "Told",
    "advance",
    "outcome",
    "ran",
    "started",
    "warm",
]


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
    def members(self) -> list[int]:
        """Their places in the sweep."""
        return [self.group.members[place] for place in self.places]

    @property
    def width(self) -> int:
        return len(self.places) + self.padded

    def halves(self) -> "list[Pack]":
        """Two packs of one width, or one where so many are copies."""
        width = -(-self.width // 2)
        parts = [self.places[:width], self.places[width:]]
        return [Pack(self.group, part, width - len(part)) for part in parts if part]


class Outcome(NamedTuple):
    """What a pack gave. state: with a leading axis of members, but for the step.

    curves: "train/loss" -> [members, reports].
    """

    members: list[int]
    state: PyTree
    curves: dict[str, np.ndarray]


Told = Callable[[list[int], int, dict[str, np.ndarray]], None]
"""(members, step, figures [members]) at every report."""


@dataclass
class Going:
    """A pack on its way: its carry after `step` steps, and the figures so far, still on the device.

    fresh: whether the next step begins a new interval of means.
    """

    pack: Pack
    own: Lanes
    numbers: list[Any]
    carry: Carry
    step: int = 0
    fresh: bool = True
    figures: dict[str, list[Any]] = field(default_factory=dict)


def started(pack: Pack, own: Lanes, keys: Key, held: Held) -> Going:
    """A pack before its first step. keys: [members of the sweep]."""
    numbers, own_keys = _given(pack, own, keys)
    return Going(pack, own, numbers, own.init(numbers, own_keys, held.train))


def advance(
    going: Going, until: int, held: Held, intervals: Intervals, by_step: bool, told: Told | None
) -> None:
    """Run a pack up to a step. by_step: whether a dispatch is one step."""
    go = going.own.step if by_step else going.own.leg
    while going.step < until:
        end, means = min(intervals.next(going.step), until), {}
        while going.step < end:
            count = 1 if by_step else end - going.step
            n, fresh = np.int32(count), np.bool_(going.fresh)
            going.carry, means = go(n, fresh, going.carry, going.numbers, held.train)
            going.step, going.fresh = going.step + count, False
        figures = {}
        if intervals.logs(going.step):
            figures |= {f"train/{name}": value for name, value in means.items()}
            going.fresh = True
        if held.evaluates and intervals.evaluates(going.step):
            going.carry, judged = going.own.judge(going.carry, going.numbers, held.judged)
            figures |= {f"validation/{name}": value for name, value in judged.items()}
        for name, value in figures.items():
            going.figures.setdefault(name, []).append(value)
        if told is not None and figures:
            told(going.pack.members, going.step, _rows(figures, going.pack))


def outcome(going: Going) -> Outcome:
    """What a pack has come to, on the host."""
    pack = going.pack
    state, figures = jax.device_get((_keyless(going.carry.state), going.figures))
    curves = {
        name: np.stack([*_rows(dict(enumerate(column)), pack).values()], axis=1)
        for name, column in figures.items()
    }
    return Outcome(pack.members, _lead(state, going.own, len(pack.places)), curves)


def ran(
    pack: Pack, own: Lanes, keys: Key, held: Held, intervals: Intervals, by_step: bool,
    told: Told | None = None,
) -> Outcome:  # fmt: skip
    """The outcome of a pack, run from its first step to its last."""
    going = started(pack, own, keys, held)
    advance(going, intervals.steps, held, intervals, by_step, told)
    return outcome(going)


def warm(pack: Pack, own: Lanes, keys: Key, held: Held, by_step: bool) -> None:
    """Compile all that `ran` calls, so that threads do not do it twice."""
    numbers, own_keys = _given(pack, own, keys)
    carry = own.init(numbers, own_keys, held.train)
    go = own.step if by_step else own.leg
    carry, _ = go(np.int32(0), np.bool_(True), carry, numbers, held.train)
    if held.evaluates:
        own.judge(carry, numbers, held.judged)


def _given(pack: Pack, own: Lanes, keys: Key) -> tuple[list[Any], Key]:
    if not own.wide:
        return pack.group.one(pack.places[0]), keys[pack.members[0]]
    places = [*pack.places, *pack.places[-1:] * pack.padded]
    members = np.asarray([pack.group.members[place] for place in places])
    return pack.group.pick(places), keys[members]


def _rows(figures: dict[Any, Any], pack: Pack) -> dict[Any, np.ndarray]:
    """Figures as [members], those of copies left out."""
    return {
        name: np.atleast_1d(np.asarray(value))[: len(pack.places)]
        for name, value in figures.items()
    }


def _keyless(state: Any) -> Any:
    """The state with its keys as plain numbers, which NumPy can hold."""
    return state._replace(key=jax.random.key_data(state.key))


def _lead(state: Any, own: Lanes, count: int) -> Any:
    """The state with a leading axis of `count` members."""
    step = state.step
    cut = lambda leaf: np.asarray(leaf)[:count] if own.wide else np.asarray(leaf)[None]
    state = jax.tree.map(cut, state._replace(step=np.zeros(1)))
    return state._replace(step=np.full(count, step, np.int32))
