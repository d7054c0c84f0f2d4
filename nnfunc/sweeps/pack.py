"""Members that run together, from their first step to their last."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc.base import Key, PyTree
from nnfunc.data.arrays import Data
from nnfunc.sweeps.groups import Group
from nnfunc.sweeps.lanes import Lanes
from nnfunc.training.pace import Intervals

__all__ = ["Held", "Outcome", "Pack", "Told", "ran", "warm"]


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


def ran(
    pack: Pack, own: Lanes, keys: Key, held: Held, intervals: Intervals, by_step: bool,
    told: Told | None = None,
) -> Outcome:  # fmt: skip
    """The outcome of a pack. keys: [members of the sweep]. by_step: whether a dispatch is one step."""
    numbers, own_keys = _given(pack, own, keys)
    carry = own.init(numbers, own_keys, held.train)
    rows: dict[str, list[Any]] = {}
    step, fresh = 0, True
    while step < intervals.steps:
        end = intervals.next(step)
        figures = {}
        while step < end:
            count = 1 if by_step else end - step
            go = own.step if by_step else own.leg
            carry, means = go(np.int32(count), np.bool_(fresh), carry, numbers, held.train)
            step, fresh = step + count, False
        if intervals.logs(step):
            figures |= {f"train/{name}": value for name, value in means.items()}
            fresh = True
        if held.evaluates and intervals.evaluates(step):
            carry, judged = own.judge(carry, numbers, held.judged)
            figures |= {f"validation/{name}": value for name, value in judged.items()}
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)
        if told is not None and figures:
            told(pack.members, step, _rows(figures, pack))
    state, rows = jax.device_get((_keyless(carry.state), rows))
    curves = {name: _rows(dict(enumerate(column)), pack) for name, column in rows.items()}
    curves = {name: np.stack([*column.values()], axis=1) for name, column in curves.items()}
    return Outcome(pack.members, _lead(state, own, len(pack.places)), curves)


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
