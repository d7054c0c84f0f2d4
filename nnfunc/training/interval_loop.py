"""One run while it goes on: its carry, its rows, and what is done at the end of an interval."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.data.eval_batches import EvalBatch
from nnfunc.distributed.arrays import local_arrays
from nnfunc.training.checkpointing import Saver
from nnfunc.training.compiled import Carry, Meter, RunFunctions
from nnfunc.training.device_feed import DeviceFeed
from nnfunc.training.divergence import Diverged, find_non_finite, find_step_fault
from nnfunc.training.early_stopping import EARLY_STOP, Patience
from nnfunc.training.evaluate import mean_metrics, split_batches
from nnfunc.training.intervals import Intervals, StepRunner
from nnfunc.training.layer_stats import stats_by_layer
from nnfunc.training.task import Task
from nnfunc.training.throughput import SpeedMeter, count_flops
from nnfunc.training.train_state import eval_params


class Report(NamedTuple):
    """What is known at the end of an interval.

    step: steps done, of `steps`.

    train: means over the interval's steps (learning_rate: its last).
    validation: metrics of the held-out examples. Each is None where the interval has none.
    seconds: since the run started.
    speed: throughput and memory of the interval.
    layers: the rows of the steps that were looked at.
    """

    step: int
    steps: int
    train: dict[str, float] | None
    validation: dict[str, float] | None
    seconds: float
    speed: dict[str, float] = {}
    layers: list[dict[str, Any]] = []


class IntervalLoop:
    """A run from where it is to its end, an interval at a time.

    carry: all that goes from step to step. rows: what was written of it so far. step: steps done. fresh: whether
        the next step begins a new meter. counted: the steps that the meter has if the run has not diverged.
        rollbacks, factor: how often it may go back, and what that leaves of the rate.
    """

    def __init__(
        self,
        compiled: RunFunctions,
        carry: Carry,
        numbers: Any,
        init: Callable[[], Carry],
        feed: DeviceFeed,
        intervals: Intervals,
        saver: Saver | None,
        pace: StepRunner,
    ):
        self.compiled, self.carry, self.numbers, self.init = compiled, carry, numbers, init
        self.feed, self.data, self.intervals = feed, feed.data, intervals
        self.saver, self.pace = saver, pace
        self.rollbacks, self.factor = 0, 0.5
        self.patience: Patience | None = None
        self.on_row: Callable[[dict[str, Any]], Any] = lambda row: None
        self.past = saver.start_log() if saver is not None else []
        self.rows = [_thin(row) for row in self.past]
        self.step, self.stopped = int(carry.state.step), False
        self.fresh, self.counted = False, self._read_meter().count
        self.started = time.perf_counter()
        self.speed = SpeedMeter(self.data.batch_size, self.data.window)

    def run_interval(
        self, should_stop: Callable[[int], bool] | None, on_report: Callable[[Report], None] | None
    ) -> None:
        """The steps up to the next at which something is due, and what is due."""
        first, end = self.step, self.intervals.next(self.step)
        self.speed.begin()
        layers = []
        while self.step < end and not self.stopped:
            self.stopped = should_stop is not None and should_stop(self.step)
            if not self.stopped:
                layers += self._advance(end)
        meter = self._read_meter()  # the one value that every report waits for and fetches
        speed = self.speed.metrics()
        try:
            if meter.count != self.counted:
                self._check_steps(first)
            report = self._report(meter, speed, layers)
            self._check_held_out(report)
        except Diverged as error:
            self._go_back(error)
            return
        if report.validation is not None and self.carry.state.plateau != ():
            self.carry = self.compiled.observe(self.carry, self.numbers, report.validation)
        self._write(_rows(report))
        early = ""
        if self.patience is not None and report.validation is not None and self.step < self.intervals.steps:
            early = self.patience.observe(report.validation)
            self.stopped |= bool(early)
        if self.saver is not None:
            due = self.stopped or self.intervals.saves(self.step)
            self.saver.save(self._carry_to_save(), self.step, report.validation, due=due)
        if on_report is not None and (report.train or report.validation):
            on_report(report)
        if early:
            self._note(self.step, EARLY_STOP, early)

    def _advance(self, end: int) -> list[tuple[int, float, Any]]:
        """Run the next dispatch; returns the statistics of the layers: (step, seconds, statistics), if any."""
        data = self.feed.read(self.step)
        if self.speed.flops is None:  # counted before the first call, which uses the same trace
            scan = self.pace.loop == "scan"  # whose body is counted once
            program, n = (self.compiled.steps, (np.int32(1),)) if scan else (self.compiled.step, ())
            count = lambda: count_flops(program, *n, self.carry, self.numbers, data, self.compiled.flags[False])
            self.speed.flops = self.compiled.once(self.data, "flops", self.numbers, count)
        fresh, self.fresh = self.fresh, False
        if self.intervals.watches(self.step):
            with self.speed.compiling("watched") as counts:
                flag = self.compiled.flags[fresh]
                self.carry, layers = self.compiled.watched_step(self.carry, self.numbers, data, flag)
            self._count(1, fresh)
            self.speed.steps += counts
            return [(self.step, time.perf_counter() - self.started, layers)]
        most = min(end - self.step, self.intervals.steps_before_watch(self.step))
        with self.speed.compiling(self.pace.loop) as counts:
            self.carry, done = self.pace.advance(self.compiled, self.carry, self.numbers, data, most, fresh=fresh)
        self._count(done, fresh)
        self.speed.steps += done * counts
        return []

    def _count(self, steps: int, fresh: bool) -> None:
        """So many steps are done. fresh: whether the meter began with them."""
        self.step += steps
        self.counted = steps + (0 if fresh else self.counted)

    def _read_meter(self) -> Meter:
        """The meter on the host, when the steps before are done."""
        meter = self.carry.meter
        return replace(meter, values=np.asarray(meter.values).astype(np.float64))

    def _carry_to_save(self) -> Carry:
        """The carry, without the steps that are reported already."""
        meter = self.carry.meter
        if not self.fresh:
            return self.carry
        return self.carry._replace(meter=replace(meter, values=np.zeros(meter.values.shape, meter.values.dtype)))

    def set_row_callback(self, on_row: Callable[[dict[str, Any]], None] | None) -> None:
        """Call on_row with every row written so far, and with each new one."""
        self.on_row = on_row or self.on_row
        for row in self.past:
            self.on_row(row)
        self.past = []

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.rows += rows if self.saver is None else map(_thin, rows)
        if self.saver is not None:
            self.saver.write(rows)
        for row in rows:
            self.on_row(row)

    def _report(self, meter: Meter, speed: dict[str, float], layers: list[Any]) -> Report:
        """The report of the interval that ends now. meter: read."""
        means = validation = None
        if self.intervals.logs(self.step) and not self.stopped:
            means = {name: float(value) for name, value in meter.means().items()}
            self.fresh = True
        due = self.intervals.evaluates(self.step) and not self.stopped
        if self.data.validation is not None and due:
            validation = mean_metrics(self._totals, self._held_out())
        rows = [
            {"split": "layers", "step": step, "seconds": round(at, 3), **stats_by_layer(stats)}
            for step, at, stats in (jax.device_get(layers) if layers else [])
        ]
        seconds = time.perf_counter() - self.started
        return Report(self.step, self.intervals.steps, means, validation, seconds, speed, rows)

    def _totals(self, batch: EvalBatch) -> Any:
        return self.compiled.eval_totals(self.carry.state, self.numbers, batch)

    def _held_out(self) -> Iterator[EvalBatch]:
        placement = self.compiled.placement
        return split_batches(self._task, self.data, parts=1 if placement is None else placement.batch_parts)

    @cached_property
    def _task(self) -> Task:
        """The task of the first run like this one: other numbers do not change how a split is cut into batches."""
        return self.compiled.once(self.data, "task", self.numbers, lambda: self.compiled.build_task(self.numbers))

    def _check_steps(self, first: int) -> None:
        """Stop when one of the steps since `first` gave something that is not finite."""
        at = int(self.carry.state.diverged_at)
        if at < 0:
            return
        state, task = local_arrays(self.carry.state), self.compiled.build_task(self.numbers, at)
        layer = find_step_fault(task, state, self.data.batch)
        problem = f"the loss, its gradient or the update is not finite at step {at}"
        checked = f"(checked after steps {first} to {self.step - 1})"
        raise Diverged(f"{problem} {checked}; the parameters are those before that step", at, layer, state)

    def _check_held_out(self, report: Report) -> None:
        """Stop when the loss of the held-out examples is not finite."""
        if report.validation is None or math.isfinite(report.validation["loss"]):
            return
        state = local_arrays(self.carry.state)
        task = self.compiled.build_task(self.numbers, report.step)
        for batch in self._held_out():
            if not math.isfinite(float(self._totals(batch)["loss"][0])):
                layer = find_non_finite(task, *eval_params(task, state), local_arrays(batch).batch(), None, report.step)
                problem = f"the validation loss is not finite after {check.counted(report.step, 'step')}"
                raise Diverged(problem, report.step, layer, state)

    def _go_back(self, error: Diverged) -> None:
        """Continue from the last good checkpoint with a smaller learning rate, or raise the error."""
        times = self.saver.saved.get("rollbacks", 0) + 1 if self.saver is not None else 0
        if self.saver is None or times > self.rollbacks:
            if self.rollbacks:
                count = check.counted(self.rollbacks, "time")
                error.add_note(f"It rolled back {count} before, the limit that rollback sets.")
            self._note(self.step, "diverged", str(error))
            raise error
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.carry)
        carry = self.saver.load_before_divergence(like, self.init)
        scale = jnp.asarray(self.factor**times, jnp.float32)
        self.carry = carry._replace(state=carry.state._replace(rate_scale=scale))
        self.saver.save_rollback(self.carry, times)
        self.step = self.saver.step
        self.fresh, self.counted = False, self._read_meter().count
        self.rows = [_thin(row) for row in self.saver.truncate_log(self.step)]
        if self.patience is not None:
            self.patience = Patience(self.patience.best, self.patience.evaluations, self.rows)
        text = f"diverged at step {error.step} in {error.layer}; back to step {self.step}"
        self._note(self.step, "rollback", f"{text} with {float(scale):g} of the rate")

    def _note(self, step: int, event: str, message: str) -> None:
        """Write an event."""
        seconds = round(time.perf_counter() - self.started, 3)
        reported = {"step": step, "seconds": seconds, "event": event, "message": message}
        self._write([{"split": "event", **reported}])


def _thin(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its histograms, which are in the file and would fill the memory."""
    if row["split"] != "layers":
        return row
    tables = {name: row.get(name, {}) for name in ("parameters", "activations")}
    return row | {
        name: {path: {k: v for k, v in stats.items() if "histogram" not in k} for path, stats in table.items()}
        for name, table in tables.items()
    }


def _rows(report: Report) -> list[dict[str, Any]]:
    """The rows of a report in metrics.jsonl."""
    train = None if report.train is None else report.train | report.speed
    splits = {"train": train, "validation": report.validation}
    base = {"step": report.step, "seconds": round(report.seconds, 3)}
    return [*report.layers, *({"split": name, **base, **metrics} for name, metrics in splits.items() if metrics)]
