"""The loop: runs the compiled steps, and at the ends of intervals logs, evaluates and saves."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Key, fold, struct
from nnfunc.data.arrays import Data
from nnfunc.data.stream import Stream
from nnfunc.training.diverged import Diverged, first_not_finite
from nnfunc.training.evaluate import weighted
from nnfunc.training.feed import Feed, check_data
from nnfunc.training.pace import Intervals, Pace
from nnfunc.training.programs import Carry, Programs, choose, programs, split_hypers
from nnfunc.training.saving import Best, Saver
from nnfunc.training.task import Build, Task, TrainState, built, loss_and_metrics

__all__ = ["History", "Report", "train"]


class Report(NamedTuple):
    """What is known at the end of an interval. step: steps done, of `steps`.

    train: means over the interval's steps (learning_rate: its last). validation: figures of the
    held-out examples. Each is None where the interval has none. seconds: since the run started.
    """

    step: int
    steps: int
    train: dict[str, float] | None
    validation: dict[str, float] | None
    seconds: float


class History(NamedTuple):
    """The reports of a run as columns: history.train["loss"], history.validation["step"].

    loop: how the steps ran, "step" (one a dispatch) or "scan" (many a dispatch).
    """

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    loop: str


def train(
    build: Build,
    hypers: Any,
    data: Data | Stream,
    *,
    steps: int,
    key: Key,
    log_every: int | None = None,
    evaluate_every: int | None = None,
    save_every: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    best: str = "min loss",
    loop: Literal["auto", "step", "scan"] = "auto",
    on_report: Callable[[Report], None] | None = None,
    should_stop: Callable[[int], bool] | None = None,
) -> tuple[TrainState, History]:
    """Train what `build(hypers)` makes on `data` for a number of steps: (state, history).

    build: hypers -> Task. hypers: a pytree of numbers; floats and arrays are traced, so that a new
    learning rate never recompiles; ints and strings are static. Like a function under jax.jit, build
    is remembered: what it reads besides hypers must not change. data: a data set of `nf.data`.
    log_every, evaluate_every, save_every: in steps; by default a hundredth, a twentieth and a tenth
    of the run. loop: "step" runs a step a dispatch, "scan" many; "auto" times both before the first
    step of a run of over 20 seconds, takes the quicker, and keeps to it when resumed.
    folder: where checkpoints and `metrics.jsonl` go; without it nothing is written. best: which
    validation figure the best checkpoint has, such as "max accuracy". resume: go on from the folder's
    last good checkpoint; the result is bit for bit that of a run never stopped.
    on_report: called at each interval's end. should_stop: called with the number of steps done before
    each dispatch; when it says True the run saves and returns early.
    Raises: Diverged when the loss or gradient is not finite; ValueError and TypeError for arguments
    that do not fit; FileExistsError for a folder that already holds a run.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> state, history = nf.train(build, {"rate": 0.5}, data, steps=40, key=jax.random.key(0))
    >>> bool(abs(state.params["weight"][0, 0] - 3) < 0.01)
    True
    """
    check.size("train", steps=steps)
    check.key("train", key)
    check.choice("train", ("auto", "step", "scan"), loop=loop)
    intervals = Intervals.of(steps, log_every, evaluate_every, save_every)
    check_data(data)
    if isinstance(data, Stream) and loop == "scan":
        check.fail("train", "a stream hands in a batch a dispatch, so loop should not be 'scan'.")
    jax.eval_shape(lambda: built(build, hypers) and None)  # checks look at plain numbers only
    numbers, static, treedef = split_hypers(hypers)
    own = programs(build, static, treedef)
    figure = Best.of(best)
    feed = Feed(data)
    _inspect(own, numbers, key, feed, figure)

    of = {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "numbers": [np.asarray(n).tolist() for n in numbers if n is not None],
        "data": {"size": data.size, "batch_size": data.batch_size, "seed": int(data.seed)},
    }
    saver = Saver(folder, figure, resume=resume, of=of) if folder else None
    carry = own.init(numbers, key, feed.sample())
    if saver is not None:
        carry = saver.restore(carry)
        loop = saver.saved.get("loop", loop)
    if loop == "auto":
        loop = "step" if feed.streams else choose(own, carry, numbers, feed.sample(), steps)
    if saver is not None:
        saver.saved["loop"] = loop
    rows = saver.begin() if saver is not None else []

    step, started = int(carry.state.step), time.perf_counter()
    pace = Pace(loop)
    with closing(feed):
        while step < steps:
            end, stopped = intervals.next(step), False
            first = step
            while step < end and not stopped:
                stopped = should_stop is not None and should_stop(step)
                if not stopped:
                    carry, done = pace.advance(own, carry, numbers, feed.at(step), end - step)
                    step += done
            carry = jax.block_until_ready(carry)
            _check_steps(own, carry, numbers, data, first, step)
            report, carry = _report(own, carry, numbers, data, intervals, step, started, stopped)
            _check_held_out(own, carry, numbers, data, report)
            rows += _rows(report)
            if saver is not None:
                saver.write(_rows(report))
                saver.keep(carry, step, report.validation, due=stopped or intervals.saves(step))
            if on_report is not None and (report.train or report.validation):
                on_report(report)
            if stopped:
                break
    return carry.state, _history(rows, loop)


def _inspect(own: Programs, numbers: Any, key: Key, feed: Feed, best: Best) -> None:
    """Follow the shapes of one step, and let the objective look at the data, before any arithmetic."""
    outputs: list[Any] = []
    names: list[str] = []

    def look(numbers, key, data):
        state = own.trainer.init(numbers, key)
        task: Task = own.build(numbers)

        def objective(predict, batch):
            class Noted:  # all that predict has, and what it returns written down
                def __getattr__(self, name):
                    return getattr(predict, name)

                def __setattr__(self, name, value):
                    setattr(predict, name, value)

                def __call__(self, *args, **options):
                    y = predict(*args, **options)
                    outputs.append(jax.tree.map(struct, y))
                    return y

            return task.objective(Noted(), batch)

        noting, batch = task._replace(objective=objective), data.batch(state.step)
        states = (state.params, state.model_state)
        _, (metrics, _) = loss_and_metrics(noting, *states, batch, key=key, train=True)
        names.extend(["loss", *metrics])
        return state.step

    data = feed.data
    jax.eval_shape(look, numbers, key, feed.sample())
    if best.metric not in names:
        known = check.nearest(best.metric, names)
        check.fail("train", f"best should name a validation figure, got {best.metric!r}{known}")
    inspect = getattr(own.build(numbers).objective, "inspect", None)
    if inspect is not None and outputs:
        for name in ("train", "validation"):
            tree = data.arrays if name == "train" else data.validation
            if tree is not None:
                if name == "train" and feed.streams:
                    continue  # too much to look at; a stream looks at what it hands in
                seen = [tree] if data.transform is None else data.split(name, 4096)
                for arrays in seen:
                    inspect(outputs[0], arrays)


def _check_steps(
    own: Programs, carry: Carry, numbers: Any, data: Data | Stream, first: int, step: int
) -> None:
    """Stop when one of the steps since `first` gave something that is not finite."""
    at = int(carry.state.diverged_at)
    if at < 0:
        return
    state, task = carry.state, own.build(numbers)
    key = jax.random.fold_in(state.key, at)
    batch = data.batch(at, key=fold(key, "augment"))
    layer = first_not_finite(task, state.params, state.model_state, batch, key)
    what = f"the loss, its gradient or the update is not finite at step {at}"
    kept = (
        f"(seen in steps {first} to {step - 1}); parameters are kept as they were before that step"
    )
    raise Diverged(f"{what} {kept}", at, layer, state)


def _check_held_out(
    own: Programs, carry: Carry, numbers: Any, data: Data | Stream, report: Report
) -> None:
    """Stop when the loss of the held-out examples is not finite."""
    if report.validation is None or math.isfinite(report.validation["loss"]):
        return
    state, task = carry.state, own.build(numbers)
    for batch in data.split("validation", max(1024, data.batch_size)):
        if not math.isfinite(float(own.figures(state, numbers, batch)["loss"])):
            layer = first_not_finite(task, state.params, state.model_state, batch, None)
            what = f"the validation loss is not finite after {report.step} steps"
            raise Diverged(what, report.step, layer, state)


def _report(
    own: Programs, carry: Carry, numbers: Any, data: Any, intervals: Intervals,
    step: int, started: float, stopped: bool,
) -> tuple[Report, Carry]:  # fmt: skip
    """The report of the interval that ends here, and the carry with a fresh meter."""
    means = validation = None
    if intervals.logs(step) and not stopped:
        total, last, count = jax.device_get(carry.meter)
        means = {name: float(value) / int(count) for name, value in total.items()}
        means |= {name: float(last[name]) for name in last if name == "learning_rate"}
        carry = carry._replace(meter=jax.tree.map(jnp.zeros_like, carry.meter))
    if data.validation is not None and intervals.evaluates(step) and not stopped:

        def figures(batch):
            return own.figures(carry.state, numbers, batch)

        validation = weighted(figures, data.split("validation", max(1024, data.batch_size)))
    seconds = time.perf_counter() - started
    return Report(step, intervals.steps, means, validation, seconds), carry


def _rows(report: Report) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that a report makes."""
    splits = {"train": report.train, "validation": report.validation}
    base = {"step": report.step, "seconds": round(report.seconds, 3)}
    return [{"split": name, **base, **figures} for name, figures in splits.items() if figures]


def _history(rows: list[dict[str, Any]], loop: str) -> History:
    def columns(split: str) -> dict[str, np.ndarray]:
        own = [row for row in rows if row["split"] == split]
        names = [name for name in (own[0] if own else {}) if name != "split"]
        return {name: np.asarray([row[name] for row in own]) for name in names}

    return History(columns("train"), columns("validation"), loop)
