"""After how many steps what is due, and how the steps in between are run."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.distributed import processes
from nnfunc.training.compiled import Carry, RunFunctions


class Intervals(NamedTuple):
    """After how many steps what is due."""

    steps: int
    log: int
    evaluate: int
    save: int
    watch: int | None = None

    @staticmethod
    def from_arguments(
        steps: int, log: int | None, evaluate: int | None, save: int | None, watch: int | None = None
    ) -> "Intervals":
        for name, value in {
            "log_every": log,
            "evaluate_every": evaluate,
            "save_every": save,
            "watch_every": watch,
        }.items():
            if value is not None:
                check.size("train", **{name: value})
        log, evaluate = log or max(1, steps // 100), evaluate or max(1, steps // 20)
        return Intervals(steps, log, evaluate, save or max(1, steps // 10), watch)

    def next(self, step: int) -> int:
        """The next step at which something is due."""
        every = (self.log, self.evaluate, self.save)
        return min(self.steps, *((step // n + 1) * n for n in every))

    def watches(self, step: int) -> bool:
        """Whether the step that is done next is looked at: the first, and the last of each interval."""
        return self.watch is not None and (step == 0 or (step + 1) % self.watch == 0)

    def steps_before_watch(self, step: int) -> int:
        """How many steps, from this one on, come before the next that is looked at."""
        if self.watch is None:
            return self.steps
        return 0 if self.watches(step) else self.watch - 1 - step % self.watch

    def logs(self, step: int) -> bool:
        return step % self.log == 0 or step == self.steps

    def evaluates(self, step: int) -> bool:
        return step % self.evaluate == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        return step % self.save == 0 or step == self.steps


class StepRunner:
    """Runs steps one a dispatch or many; many take at most about half a second.

    loop: "step" or "scan".
    most: how many steps to begin with; it grows.
    """

    def __init__(self, loop: str, most: int = 1):
        self.loop, self.most = loop, most

    def advance(
        self, functions: RunFunctions, carry: Carry, numbers: Any, data: Any, limit: int, *, fresh: bool
    ) -> tuple[Carry, int]:
        """The carry after the steps of one dispatch, and how many there were.

        functions, carry, numbers, data: of the run.
        limit: at most so many steps.
        fresh: whether the meter forgets the steps before them.
        """
        flag = functions.flags[fresh]
        if self.loop == "step":
            carry = functions.step(carry, numbers, data, flag)
            if processes.count() > 1 and jax.default_backend() == "cpu":
                jax.block_until_ready(carry)  # sums over processes of two steps at once would wait for each other
            return carry, 1
        count = min(limit, self.most)
        start = time.perf_counter()
        carry = functions.steps(np.int32(count), carry, numbers, data, flag)
        jax.block_until_ready(carry.meter.values)
        seconds = time.perf_counter() - start
        if count == self.most and seconds < 0.25:
            self.most *= 2
        return carry, count
