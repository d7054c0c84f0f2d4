"""`train`: checks its arguments, and runs the steps from interval to interval."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from nnfunc import check, flops, tuning
from nnfunc.base import Context, Key, Model, Params, PyTree, as_model, shape_struct
from nnfunc.data.dataset import Data
from nnfunc.data.stream import Stream
from nnfunc.display import html_table
from nnfunc.distributed import processes
from nnfunc.distributed.arrays import put_array
from nnfunc.distributed.placement import Placement, Shard
from nnfunc.runs.best_metric import BestMetric
from nnfunc.training.checkpointing import Saver, run_identity, saved_forms
from nnfunc.training.compiled import RunFunctions, choose_loop, compiled_functions, split_hypers
from nnfunc.training.device_feed import DeviceFeed, as_data, placed_data
from nnfunc.training.early_stopping import Patience
from nnfunc.training.fitting import check_memory
from nnfunc.training.gradients import BoundModel, objective_values
from nnfunc.training.interval_loop import IntervalLoop, Report
from nnfunc.training.intervals import Intervals, StepRunner
from nnfunc.training.step import placement_of
from nnfunc.training.task import Build, build_task, training_batch
from nnfunc.training.task_metrics import refuse_exact
from nnfunc.training.throughput import SPEED_METRICS
from nnfunc.training.train_state import TrainState

TRANSFORMED = (
    "For many runs side by side: nf.sweep(build, space, data, ...). For a transformation of your own: "
    "nf.trainer(build), whose init and step are pure."
)
"""The hint when `train` is called inside a JAX transformation."""


Loop = Literal["auto", "step", "scan"]
LOOPS: tuple[Loop, ...] = get_args(Loop)
LOOP_KEY = "loop "
"""Begins the key of the loop among the measured forms."""

TIMES = ("step", "seconds")
"""The columns of a history that are no metrics."""


class History(NamedTuple):
    """The reports of a run as columns: history.train["loss"], history.validation["step"].

    train, validation: {metric: values}.
    loop: how the steps ran, "step" (one a dispatch) or "scan" (many).
    layers: statistics of the layers, with watch_every: {"step": [...], "parameters": {path: {statistic: [...]}},
        "activations": ...}; without the histograms if the run has a folder.
    speed: throughput and memory.
    stopped_early: whether the run ended before its last step, because of `patience`.
    """

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    loop: str
    layers: dict[str, Any] = {}
    speed: dict[str, np.ndarray] = {}
    stopped_early: bool = False

    def __repr__(self) -> str:
        lines = [f"History ({self.loop} loop):"]
        for name, columns in self._splits().items():
            metrics = ", ".join(f"{key} {values[-1]:.4g}" for key, values in columns.items() if key not in TIMES)
            reports = check.counted(len(columns["step"]), "report")
            lines.append(f"  {name} at step {int(columns['step'][-1]):,} ({reports}): {metrics}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        splits = self._splits()
        metrics = list(dict.fromkeys(key for columns in splits.values() for key in columns if key not in TIMES))
        rows = [["split", "step", *metrics]]
        for name, columns in splits.items():
            values = [f"{columns[key][-1]:.4g}" if key in columns else "" for key in metrics]
            rows.append([name, f"{int(columns['step'][-1]):,}", *values])
        return html_table(rows)

    def _splits(self) -> dict[str, dict[str, np.ndarray]]:
        splits = {"train": self.train, "validation": self.validation}
        return {name: columns for name, columns in splits.items() if len(columns.get("step", ()))}


def train(
    build: Build,
    hypers: Any,
    data: Data | Stream,
    *,
    steps: int,
    key: Key,
    params: Params | None = None,
    state: PyTree | None = None,
    log_every: int | None = None,
    evaluate_every: int | None = None,
    save_every: int | None = None,
    watch_every: int | None = None,
    eval_batch_size: int | None = None,
    folder: str | Path | None = None,
    resume: bool | Collection[str] = False,
    changed_data: bool = False,
    best: str = "min loss",
    loop: Loop = "auto",
    mesh: Mesh | Mapping[str, int] | None = None,
    shard: Shard = None,
    cut_data: float | None = None,
    rollback: int = 0,
    rollback_factor: float = 0.5,
    patience: int | None = None,
    on_report: Callable[[Report], None] | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[int], bool] | None = None,
) -> tuple[TrainState, History]:
    """Train the task `build(hypers)` on `data` for a number of steps: (state, history).

    build: hypers -> Task, or (hypers, step) -> Task. Like a function under jax.jit, it is remembered: what it reads
        besides hypers must not change.
    hypers: a pytree of numbers; floats and arrays are traced, so that a new learning rate never recompiles; ints
        and strings are static.
    data: a data set of `nf.data`.
    steps: at least 1.
    key: a random key; it sets everything random but the order of the data.
    params, state: parameters, and the model's state, to begin from, for fine-tuning or to continue in memory; by
        default new ones. Copies are trained, yours stay. With resume, a folder that has a checkpoint continues from
        the checkpoint.
    log_every: the steps between reports of the training metrics, by default a hundredth of the run.
    evaluate_every: those between evaluations, by default a twentieth.
    save_every: those between checkpoints, by default a tenth.
    watch_every: every how many steps statistics of each layer are recorded (gradients, updates, activations); None
        never.
    eval_batch_size: examples that an evaluation takes at once; by default as many as the forward pass of a step
        (batch_size divided by the task's accumulate), so that it needs no more memory.
    folder: for checkpoints and `metrics.jsonl`; without it nothing is written.
    resume: continue from the folder's last good checkpoint; the result is bit for bit that of a run that was never
        stopped. Names of hypers continue too, and allow these to have new values, such as a later end of a
        schedule.
    changed_data: continue though the number of training examples has changed.
    best: the validation metric that the best checkpoint is chosen by, such as "max accuracy".
    loop: "step" runs one step a dispatch, "scan" many, of up to half a second. "auto" is "step" for a stream, and
        "scan" otherwise, but that on a CPU convolutions can be slow in a scan: with them it is "step", or in a run
        of over 20 seconds the faster of the two. A resumed run keeps the choice, as it keeps the forms of its
        convolutions that `nnfunc tune` has measured.
    mesh: of `nf.mesh`, or its axes as a dict, {"data": -1}: the devices that each step is divided over; the result
        is that of one device to rounding. Its axis `data` divides batch_size. None, the default, is one device.
    shard: where the parameters lie on the mesh: a preset or patterns, as for `nf.shardings`.
    cut_data: data in memory that takes more than this fraction of a device's memory is cut over the axis `data` of
        the mesh, by default a quarter, instead of copied to every device: each step then moves the rows of its
        batch, with the same result. 0 always cuts, 1 never does.
    rollback: how often a run that diverges returns to its last good checkpoint and continues with rollback_factor
        times the learning rate; it needs a folder.
    rollback_factor: in (0, 1].
    patience: after how many evaluations in a row without a better value of `best` the run stops early, at least 1;
        None never. The best checkpoint stays, and a resumed run goes on for as many evaluations.
    on_report: called with the Report of each interval.
    on_row: called with each row of metrics.jsonl, such as the `write` of `nnfunc.runs.writers`; when resumed, with
        the earlier rows first.
    should_stop: called with the number of steps done before each dispatch; on True the run saves and returns early.
    Raises: Diverged when the loss or gradient is not finite; ValueError and TypeError for arguments that do not
    fit, or when the device has too little memory; FileExistsError for a folder that already holds a run;
    BlockingIOError for one in which another process trains.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> state, history = nf.train(build, {"rate": 0.5}, data, steps=40, key=jax.random.key(0))
    >>> bool(abs(state.params["weight"][0, 0] - 3) < 0.01)
    True
    >>> tuned, _ = nf.train(build, {"rate": 0.1}, data, steps=5, key=jax.random.key(1), params=state.params)
    """
    check.on_host("train", TRANSFORMED, hypers=hypers, key=key, data=data, params=params, state=state)
    check.key("train", key)
    intervals, best_metric = check_options(
        steps=steps,
        log_every=log_every,
        evaluate_every=evaluate_every,
        save_every=steps if folder is None and save_every is None else save_every,
        watch_every=watch_every,
        eval_batch_size=eval_batch_size,
        best=best,
        loop=loop,
        cut_data=cut_data,
        rollback=rollback,
        rollback_factor=rollback_factor,
        patience=patience,
    )
    if rollback and folder is None:
        check.fail("train", "rollback returns to a checkpoint, so it needs a folder.", hint="Pass folder=.")
    data = as_data(data)
    if data.validation is None:
        intervals = intervals._replace(evaluate=steps)
    if patience is not None and data.validation is None:
        hint = "Add one, such as nf.data.arrays(..., validation=(x, y))."
        check.fail("train", "patience counts evaluations, and the data has no validation split.", hint=hint)
    if isinstance(data, Stream) and loop == "scan":
        check.fail("train", "a stream provides one batch a dispatch, so loop should not be 'scan'.")
    forms = saved_forms(folder) if folder is not None and resume else None
    forms = (tuning.pins() or tuning.measured()) if forms is None else forms
    with tuning.pinned(forms):
        jax.eval_shape(lambda: build_task(build, hypers) and None)  # checks look at plain numbers only
        numbers, static, treedef = split_hypers(hypers)
        placement = placement_of("train", mesh, shard)
        compiled = compiled_functions(build, static, treedef, rollback > 0, placement)
        if eval_batch_size is not None:
            data = dataclasses.replace(data, eval_batch_size=eval_batch_size)
        if placement is not None:
            processes.join_initialized(placement.mesh)
            data, numbers = placed_data(data, placement), placement.whole(numbers)
        feed = DeviceFeed(data, placement, cut_data)
        loop = resolve_loop(loop, feed, inspect_task(compiled, numbers, key, feed, best_metric))
        start = None if params is None and state is None else (params, state)
        if processes.count() > 1:
            refuse_exact("train", compiled.build_task(numbers))
        check_memory("train", compiled, numbers, key, feed, loop, start)
        placed_key = key if placement is None else placement.whole(key)
        if placement is not None and start is not None:
            start = _move_start(start, placement, as_model(compiled.build_task(numbers).model))
        init = lambda: compiled.init(numbers, placed_key, feed.sample(), start)

        saver = None
        if folder:
            identity = run_identity(key, numbers, static, data, hypers)
            if changed_data:
                del identity["data"]["size"]
            saver = Saver(folder, best_metric, resume=resume, of=identity, every=intervals.save)
        try:
            carry = init()
            if saver is not None:
                carry = saver.restore(carry)
                loop = saver.saved.get("loop", loop)
                check.choice("train", LOOPS, loop=loop)
            if loop == "auto":
                loop = choose_loop(compiled, carry, numbers, feed.sample(), data, steps)
            if saver is not None:
                saver.saved |= {"loop": loop} | ({"forms": forms} if forms else {})
            runner = compiled.once(data, ("runner", loop), numbers, lambda: StepRunner(loop))
            run = IntervalLoop(compiled, carry, numbers, init, feed, intervals, saver, runner)
            run.rollbacks, run.factor = rollback, rollback_factor
            run.patience = None if patience is None else Patience(best_metric, patience, run.rows)
            run.set_row_callback(on_row)
            with closing(feed):
                while run.step < steps and not run.stopped:
                    run.run_interval(should_stop, on_report)
            if saver is not None:
                saver.wait()
        finally:
            if saver is not None:
                saver.close()
        return run.carry.state, _history(run.rows, loop, run.patience is not None and run.patience.is_over)


def check_options(
    *,
    steps: int,
    log_every: int | None,
    evaluate_every: int | None,
    save_every: int | None,
    watch_every: int | None,
    eval_batch_size: int | None,
    best: str,
    loop: str,
    cut_data: float | None,
    rollback: int,
    rollback_factor: float,
    patience: int | None,
) -> tuple[Intervals, BestMetric]:
    """The intervals of a run and the metric of its best checkpoint; refuses options of `train` out of range."""
    check.size("train", steps=steps)
    check.choice("train", LOOPS, loop=loop)
    check.size("train", 0, rollback=rollback)
    check.size("train", patience=1 if patience is None else patience)
    check.size("train", eval_batch_size=1 if eval_batch_size is None else eval_batch_size)
    check.number("train", 0, 1, cut_data=0 if cut_data is None else cut_data)
    check.number("train", 0, 1, open_low=True, rollback_factor=rollback_factor)
    intervals = Intervals.from_arguments(steps, log_every, evaluate_every, save_every, watch_every)
    return intervals, BestMetric.parse(best)


def _move_start(start: tuple[Params | None, PyTree], placement: Placement, model: Model) -> tuple[PyTree, PyTree]:
    """The params and model state that a run begins from on the devices of its mesh: they may be those of another."""
    params, state = start
    if params is None:
        return None, placement.whole(state)
    tree = TrainState((), (), params, state, (), ())  # pyright: ignore
    shardings = placement.shardings("train", tree, model)

    def move(leaf: Any, sharding: Any) -> Any:
        current = getattr(leaf, "sharding", None)
        is_there = current is not None and current.device_set == sharding.device_set
        return leaf if is_there else put_array(np.asarray(leaf) if current is None else leaf, sharding)

    moved = jax.tree.map(move, tree, shardings)
    return moved.params, moved.model_state


class _RecordingModel(BoundModel):
    """A bound model that records the shapes of its outputs."""

    def __init__(self, model: Model, params: Params, ctx: Context):
        super().__init__(model, params, ctx)
        self.outputs: list[Any] = []

    def __call__(self, x: PyTree, *others: PyTree) -> PyTree:
        y = super().__call__(x, *others)
        self.outputs.append(jax.tree.map(shape_struct, y))
        return y


class Inspection(NamedTuple):
    """What `inspect_task` has seen. has_convolution: of the model. size: that of the training, as it stands in keys."""

    has_convolution: bool
    size: str


def resolve_loop(loop: Loop, feed: DeviceFeed, inspection: Inspection) -> Loop:
    """ "step" or "scan" where "auto" means it, from an earlier measurement or without any, else the argument.

    loop: of `train`.
    feed: the data of the run.
    inspection: of the task.
    """
    if loop != "auto":
        return loop
    if feed.is_stream or processes.count() > 1:  # which scans the same number of steps in every process
        return "step"
    default: Loop = "auto" if inspection.has_convolution and jax.default_backend() == "cpu" else "scan"
    return tuning.choose(f"{LOOP_KEY}{inspection.size}", default, LOOPS[1:])


def inspect_task(functions: RunFunctions, numbers: Any, key: Key, feed: DeviceFeed, best: BestMetric) -> Inspection:
    """Trace one step, and let the objective check the data, before any arithmetic.

    It is done once for the same functions, data set and metric.
    functions: of the run.
    numbers: of `split_hypers`.
    key: of the run.
    feed: its data.
    best: the metric of the best checkpoint, which the objective must have.
    """
    inspect = lambda: _inspect_task(functions, numbers, key, feed, best)
    return functions.once(feed.data, ("inspection", best, key.dtype), numbers, inspect)


def _inspect_task(functions: RunFunctions, numbers: Any, key: Key, feed: DeviceFeed, best: BestMetric) -> Inspection:
    outputs: list[Any] = []
    names: list[str] = []
    sizes: list[str] = []

    def trace(numbers, key, state, data):
        task = functions.build_task(numbers)
        predict = _RecordingModel(
            as_model(task.model), state.params, Context(key=key, train=True, state=state.model_state)
        )
        batch = training_batch(task, data.batch(state.step), key)
        sizes.extend(tuning.join_sizes(leaf.shape) for leaf in jax.tree.leaves(batch))
        loss, metrics = objective_values(task, predict, batch, key=key, step=state.step)
        outputs.extend(predict.outputs)
        names.extend(dict.fromkeys(["loss", *metrics, *task.metrics]))
        if task.plateau is not None and feed.data.validation is None:
            hint = "Add one to the data set: nf.data.arrays(..., validation=(x, y))."
            check.fail("reduce_on_plateau", "it needs a validation split, and there is none.", hint=hint)
        functions.trainer.observe(numbers, state, dict.fromkeys(names, 0.0))
        if task.accumulate > 1:
            functions.trainer.step(numbers, state, data.batch(state.step))
        return loss

    data = feed.data
    state = jax.eval_shape(functions.init, numbers, key, feed.sample(), None).state  # the run uses its trace
    jaxpr = jax.make_jaxpr(trace)(numbers, key, state, feed.sample())
    if best.name not in names:
        near = check.nearest(best.name, names)
        check.fail("train", f"best should name a validation metric, got {best.name!r}{near}")
    params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    size = f"{params} parameters, batch {', '.join(sizes)}"
    inspection = Inspection("conv_general_dilated" in flops.primitives(jaxpr), size)
    inspect = getattr(functions.build_task(numbers).objective, "inspect", None)
    if inspect is None or not outputs:
        return inspection
    for name, tree in (("train", data.arrays), ("validation", data.validation)):
        if tree is None or (name == "train" and feed.is_stream):
            continue  # a stream is too long to inspect in advance; it checks its batches
        for arrays in [tree] if data.transform is None else data.split(name, _inspection_batch_size(tree)):
            inspect(outputs[0], arrays)
    return inspection


def _inspection_batch_size(tree: Any) -> int:
    """How many examples are transformed at once for the inspection: 4096, or 16 MB of them."""
    each = sum(leaf.nbytes // leaf.shape[0] for leaf in jax.tree.leaves(tree))
    return max(1, min(4096, 2**24 // max(each, 1)))


def _history(rows: list[dict[str, Any]], loop: str, stopped_early: bool) -> History:
    def columns(split: str) -> dict[str, np.ndarray]:
        split_rows = [row for row in rows if row["split"] == split]
        names = {name: None for row in split_rows for name in row if name != "split"}
        value = lambda row, name: math.nan if row.get(name) is None else row[name]
        return {name: np.asarray([value(row, name) for row in split_rows]) for name in names}

    train = columns("train")
    speed = {name: train.pop(name) for name in SPEED_METRICS if name in train}
    return History(train, columns("validation"), loop, _layer_columns(rows), speed, stopped_early)


def _layer_columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of layer statistics as columns."""
    layer_rows = [row for row in rows if row["split"] == "layers"]
    if not layer_rows:
        return {}
    columns: dict[str, Any] = {"step": np.asarray([row["step"] for row in layer_rows])}
    for part in ("parameters", "activations"):
        columns[part] = {
            path: {name: [row[part].get(path, {}).get(name) for row in layer_rows] for name in statistics}
            for path, statistics in layer_rows[0][part].items()
        }
    return columns
