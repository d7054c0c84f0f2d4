"""The loop: checks what it is given, and runs it from interval to interval."""

import dataclasses
import math
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Key, shape_struct
from nnfunc.data.dataset import Data
from nnfunc.data.stream import Stream
from nnfunc.training.checkpointing import Best, Saver, identity
from nnfunc.training.compiled import Programs, choose, programs, split_hypers
from nnfunc.training.device_feed import Feed, check_data
from nnfunc.training.fitting import check_memory
from nnfunc.training.gradients import loss_and_metrics
from nnfunc.training.interval_loop import Report, Run
from nnfunc.training.intervals import Intervals, Pace
from nnfunc.training.step import TrainState
from nnfunc.training.task import Build, Task, built, training_batch
from nnfunc.training.throughput import FIGURES

__all__ = ["History", "Report", "inspect_task", "train"]


TRANSFORMED = (
    "For many runs side by side: nf.sweep(build, space, data, ...). For a transformation of your own: "
    "nf.trainer(build), whose init and step are pure."
)
"""What does what `train` cannot."""


class History(NamedTuple):
    """The reports of a run as columns: history.train["loss"], history.validation["step"].

    loop: how the steps ran, "step" (one a dispatch) or "scan" (many a dispatch). layers: what was seen
    of the layers, {"step": [...], "parameters": {path: {statistic: [...]}}, "activations": ...}, with
    watch_every; without the histograms where a folder has them. speed: throughput and memory.
    """

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    loop: str
    layers: dict[str, Any] = {}
    speed: dict[str, np.ndarray] = {}


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
    watch_every: int | None = None,
    eval_batch_size: int | None = None,
    folder: str | Path | None = None,
    resume: bool | Collection[str] = False,
    changed_data: bool = False,
    best: str = "min loss",
    loop: Literal["auto", "step", "scan"] = "auto",
    rollback: int = 0,
    rollback_factor: float = 0.5,
    on_report: Callable[[Report], None] | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[int], bool] | None = None,
) -> tuple[TrainState, History]:
    """Train what `build(hypers)` makes on `data` for a number of steps: (state, history).

    build: hypers -> Task. hypers: a pytree of numbers; floats and arrays are traced, so that a new
    learning rate never recompiles; ints and strings are static. Like a function under jax.jit, build
    is remembered: what it reads besides hypers must not change. data: a data set of `nf.data`.
    log_every, evaluate_every, save_every: in steps; by default a hundredth, a twentieth and a tenth
    of the run. watch_every: after how many steps one is looked at layer by layer (gradients, updates,
    activations, see `nf.training.watching`); None never. eval_batch_size: examples that an evaluation
    takes at once; by default as many as the forward pass of a step, so that it needs no more memory:
    batch_size, divided by the task's accumulate. loop: "step" runs a step a dispatch, "scan"
    many;
    "auto" times both before the first step of a run of over 20 seconds, takes the quicker, and
    keeps to it when resumed.
    folder: where checkpoints and `metrics.jsonl` go; without it nothing is written. best: which
    validation figure the best checkpoint has, such as "max accuracy". resume: go on from the folder's
    last good checkpoint; the result is bit for bit that of a run never stopped. Names of hypers go on
    too, and these may have other values since, such as the end of a schedule that is not reached yet.
    changed_data: go on though there are more or fewer training examples than then.
    rollback: how often a run that diverges goes back to its last good checkpoint and on from there with
    rollback_factor times the rate; it needs a folder.
    on_report: called at each interval's end. on_row: called with each row of metrics.jsonl, such as the
    `write` of `nnfunc.runs.writers`; when resumed, with the earlier ones first. should_stop: called
    with the number of steps done before each dispatch; when it says True the run saves and returns
    early.
    Raises: Diverged when the loss or gradient is not finite; ValueError and TypeError for arguments
    that do not fit, or when the device has too little memory; FileExistsError for a folder that already
    holds a run; BlockingIOError for one in which another process trains.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> state, history = nf.train(build, {"rate": 0.5}, data, steps=40, key=jax.random.key(0))
    >>> bool(abs(state.params["weight"][0, 0] - 3) < 0.01)
    True
    """
    check.on_host("train", TRANSFORMED, hypers=hypers, key=key, data=data)
    check.size("train", steps=steps)
    check.key("train", key)
    check.choice("train", ("auto", "step", "scan"), loop=loop)
    check.size("train", 0, rollback=rollback)
    check.number("train", 0, 1, open_low=True, rollback_factor=rollback_factor)
    if rollback and folder is None:
        check.fail("train", "rollback goes back to a checkpoint, so it needs a folder. Give folder=.")
    intervals = Intervals.of(steps, log_every, evaluate_every, save_every, watch_every)
    check_data(data)
    if isinstance(data, Stream) and loop == "scan":
        check.fail("train", "a stream hands in a batch a dispatch, so loop should not be 'scan'.")
    jax.eval_shape(lambda: built(build, hypers) and None)  # checks look at plain numbers only
    numbers, static, treedef = split_hypers(hypers)
    own = programs(build, static, treedef, rollback > 0)
    figure = Best.of(best)
    if eval_batch_size is not None:
        check.size("train", eval_batch_size=eval_batch_size)
        data = dataclasses.replace(data, eval_batch_size=eval_batch_size)
    feed = Feed(data)
    inspect_task(own, numbers, key, feed, figure)
    check_memory("train", own, numbers, key, feed.sample(), data.batch_size, loop)

    of = identity(key, numbers, static, data, hypers)
    if changed_data:
        del of["data"]["size"]
    saver = Saver(folder, figure, resume=resume, of=of, every=intervals.save) if folder else None
    try:
        carry = own.init(numbers, key, feed.sample())
        if saver is not None:
            carry = saver.restore(carry)
            loop = saver.saved.get("loop", loop)
            check.choice("train", ("auto", "step", "scan"), loop=loop)
        if loop == "auto":
            loop = "step" if feed.streams else choose(own, carry, numbers, feed.sample(), steps)
        if saver is not None:
            saver.saved["loop"] = loop
        run = Run(own, carry, numbers, key, feed, intervals, saver, Pace(loop))
        run.rollbacks, run.factor = rollback, rollback_factor
        run.tell(on_row)
        with closing(feed):
            while run.step < steps and not run.stopped:
                run.interval(should_stop, on_report)
    finally:
        if saver is not None:
            saver.close()
    return run.carry.state, _history(run.rows, loop)


def inspect_task(own: Programs, numbers: Any, key: Key, feed: Feed, best: Best) -> None:
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
                    outputs.append(jax.tree.map(shape_struct, y))
                    return y

            return task.objective(Noted(), batch)

        noting = task._replace(objective=objective)
        batch = training_batch(task, data.batch(state.step), key)
        states = (state.params, state.model_state)
        _, (metrics, _) = loss_and_metrics(noting, *states, batch, key=key, train=True)
        names.extend(["loss", *metrics])
        figures = dict.fromkeys(names, 0.0)
        if task.plateau is not None and feed.data.validation is None:
            cure = "Give the data set one: nf.data.arrays(..., validation=(x, y))."
            check.fail("reduce_on_plateau", f"it reads the validation split, got none. {cure}")
        own.trainer.observe(numbers, state, figures)
        if task.accumulate > 1:
            own.trainer.step(numbers, state, data.batch(state.step))
        return state.step

    data = feed.data
    jax.eval_shape(look, numbers, key, feed.sample())
    if best.metric not in names:
        known = check.nearest(best.metric, names)
        check.fail("train", f"best should name a validation figure, got {best.metric!r}{known}")
    look_at = getattr(own.build(numbers).objective, "inspect", None)
    if look_at is not None and outputs:
        for name in ("train", "validation"):
            tree = data.arrays if name == "train" else data.validation
            if tree is not None:
                if name == "train" and feed.streams:
                    continue  # too much to look at; a stream looks at what it hands in
                seen = [tree] if data.transform is None else data.split(name, _looked_at(tree))
                for arrays in seen:
                    look_at(outputs[0], arrays)


def _looked_at(tree: Any) -> int:
    """How many examples are transformed at once to be looked at: 4096, or 16 MB of them."""
    each = sum(leaf.nbytes // leaf.shape[0] for leaf in jax.tree.leaves(tree))
    return max(1, min(4096, 2**24 // max(each, 1)))


def _history(rows: list[dict[str, Any]], loop: str) -> History:
    def columns(split: str) -> dict[str, np.ndarray]:
        own = [row for row in rows if row["split"] == split]
        names = {name: None for row in own for name in row if name != "split"}
        value = lambda row, name: math.nan if row.get(name) is None else row[name]
        return {name: np.asarray([value(row, name) for row in own]) for name in names}

    train = columns("train")
    speed = {name: train.pop(name) for name in FIGURES if name in train}
    return History(train, columns("validation"), loop, _layers(rows), speed)


def _layers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of the layers as columns."""
    own = [row for row in rows if row["split"] == "layers"]
    if not own:
        return {}
    made: dict[str, Any] = {"step": np.asarray([row["step"] for row in own])}
    for kind in ("parameters", "activations"):
        made[kind] = {
            path: {name: [row[kind].get(path, {}).get(name) for row in own] for name in statistics}
            for path, statistics in own[0][kind].items()
        }
    return made
