"""Whether a run may go on with other settings: its loop may change, and what was trained may not."""

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.config import Config
from nnfunc.config.schema import factories

__all__ = ["changed_settings", "lengthened"]

END = "schedule.total_steps"
LOOP = ("train.", "log.")


def lengthened(before: Config, config: Config, done: int, settings: list[str]) -> list[str]:
    """The hypers that may differ in a run of `done` steps that goes on with these settings.

    A schedule ends with the run unless it says when: a longer run has another one. It may go on
    where the steps that are trained had the same rates, and else when the old end is given.
    Raises: ValueError for settings of another table, or rates that would have been others.
    """
    other = [word for word in settings if not word.strip().startswith((*LOOP, END))]
    if other:
        cure = "Start another run to change the rest."
        check.fail("resume", f"settings should be of train or log, got {other[0]!r}. {cure}")
    old, new = before.hypers, config.hypers
    if old.keys() != new.keys() or [n for n in new if old[n] != new[n]] != [END]:
        return []  # the same, or what the run itself refuses, by name
    were, are = (_rates(one, done) for one in (before, config))
    differ = np.flatnonzero(were != are)
    if not differ.size:
        return [END]
    steps, first = (before.train["steps"], config.train["steps"]), int(differ[0])
    why = f"the rate would have been another in {differ.size} of the {done} steps that are trained"
    such = f"{are[first]:.3g} where it was {were[first]:.3g} at step {first}"
    cure = f"Add {END}={old[END]:g} to go on at the rate that it ends with, or start another run."
    check.fail(
        "resume",
        f"resume should go on with the same numbers, got train.steps {steps[0]} -> {steps[1]}, and "
        f"with it {END} {old[END]:g} -> {new[END]:g}: {why} ({such}). {cure}",
    )


def changed_settings(before: Config, config: Config) -> str:
    """The settings of the loop that differ: `train.steps 60 -> 100, train.rollback none -> 2`."""
    found = []
    for table in ("train", "log"):
        old, new = (one.tables.get(table, {}) for one in (before, config))
        found += [
            f"{table}.{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
    return ", ".join(found)


def _rates(config: Config, done: int) -> np.ndarray:
    """The rates of the first steps, [done], as the config's schedule gives them."""
    _, name, values = config.part("schedule")
    schedule = factories("schedule")[name](**values)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(done)))
