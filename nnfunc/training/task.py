"""What is trained: a model, an objective, an optimizer, and the options that belong to them.

Hyperparameters are arguments: `build(hypers)` makes the task inside the traced step. So one compiled
step serves every learning rate, and `jax.vmap` over hypers trains many at once.
"""

import dis
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import jax

from nnfunc import check, schedules
from nnfunc.base import Key, Model, PyTree, Scalar, as_model, fold, named_parameters
from nnfunc.calls import Described, factory_hint
from nnfunc.data.augment.augmentation import Augmentation
from nnfunc.optimizers import as_optimizer
from nnfunc.training.objectives import Objective, check_objective
from nnfunc.training.several_models import AlternatingObjectives, joint_model, joint_objective, joint_optimizer
from nnfunc.training.task_metrics import check_metrics


class OnPlateau(NamedTuple):
    """A factor of the learning rate that follows a validation metric; see `reduce_on_plateau`.

    metric: its name.
    init: () -> state.
    update: (state, value) -> state.
    """

    metric: str
    init: Callable[[], schedules.PlateauState]
    update: Callable[[schedules.PlateauState, Any], schedules.PlateauState]

    def __repr__(self) -> str:
        return f"<reduce_on_plateau of {self.metric!r}>"


class Task(NamedTuple):
    """A model, its objective and its optimizer; the rest is optional.

    model: a Model, an (init, apply) pair or a function.
    objective: (predict, batch) -> (loss, metrics), where predict(x) is the model's y, and predict.params are its
        parameters; with a parameter named `key` it is passed a random key, with one named `step` the 0-based step.
        In evaluation the key is always the same one.
    optimizer: any optax transformation.
    augment: (key, batch) -> batch, of `nf.augment` or your own, applied to the training batch in the compiled step.
    average: of `nf.averages`; the averaged weights are then evaluated and saved as the best checkpoint.
    plateau: `nf.reduce_on_plateau(...)`, which lowers the learning rate when a validation metric stops improving.
    sharpness: the radius, at least 0, of sharpness-aware minimization (SAM), which doubles the time of a step; None
        is off.
    accumulate: the number of equal micro-batches that a batch is split into, at least 1: it takes the memory of
        one. Losses, gradients and metrics are the means over the micro-batches, equal to those of the batch if the
        objective is a mean over examples (not if it divides by a sum of weights).
    metrics: names of further metrics of evaluations, such as ("f1", "roc_auc");
        `nnfunc.evaluation.metric_names(objective.output_type)` lists them. Most are summed inside the jitted
        evaluation; roc_auc and average_precision rank the outputs of the whole split on the host, and a sweep
        refuses them.

    Several models: model is a dict by name, whose parameters and state have these names; the objective calls
    predict.name(x) or predict["name"](x). optimizer may be a dict by name too; models without one do not move.
    With one objective all are trained at once. objective may be a dict by name: in each step its objectives take
    turns in their order, each of the loss that its model alone is trained with, after the updates before it
    (GAN, actor-critic). Their losses and metrics are called name_loss and so on; "loss" is the sum. Running
    statistics of every model that an objective calls are updated in its turn, those of the others too.
    """

    model: Any  # a layer, or a dict of layers
    objective: Any
    optimizer: Any
    augment: Callable[[Key, PyTree], PyTree] | None = None
    average: Any = None
    plateau: OnPlateau | None = None
    sharpness: Scalar | None = None
    accumulate: int = 1
    metrics: tuple[str, ...] = ()

    def __repr__(self) -> str:
        defaults = self._field_defaults
        parts = {name: value for name, value in self._asdict().items() if value is not defaults.get(name, self)}
        return f"Task({', '.join(f'{name}={check.short_repr(value)}' for name, value in parts.items())})"


Build = Callable[..., Task]
"""hypers -> Task; hypers is a pytree of numbers, possibly traced.

With a second parameter named `step` it is called `build(hypers, step)`: any number of the task can
then follow a schedule, `nf.mlp(widths, dropout=nf.schedules.linear(0.0, 1000, final=0.5)(step))`.
"""


def reduce_on_plateau(
    metric: str = "loss",
    *,
    mode: str = "min",
    factor: Scalar = 0.1,
    patience: Scalar = 10,
    cooldown: Scalar = 0,
    threshold: Scalar = 1e-4,
    threshold_mode: str = "relative",
    floor: Scalar = 0.0,
) -> OnPlateau:
    """Multiply the learning rate by `factor` when a validation metric has stopped improving.

    metric: "loss" or one of the objective's metrics, read after every evaluation.
    mode: whether lower ("min") or higher ("max") is better.
    factor: in (0, 1).
    patience, cooldown: counted in evaluations, at least 0.
    threshold: by how much a value must be better.
    threshold_mode: "relative" to the best value so far, or "absolute".
    floor: the smallest factor of the learning rate, in [0, 1].
    The factor is part of the train state; it multiplies the schedule's learning rate.
    Raises: ValueError as `nf.schedules.plateau` does.
    Source: PyTorch's ReduceLROnPlateau.

    >>> nf.reduce_on_plateau("accuracy", mode="max", patience=3, factor=0.5).metric
    'accuracy'
    """
    if not isinstance(metric, str):
        expected = "metric should be the name of a validation metric, such as 'loss'"
        check.fail("reduce_on_plateau", expected=expected, actual=check.describe(metric), exc_type=TypeError)
    schedule = schedules.plateau(
        1.0,
        mode=mode,
        factor=factor,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        threshold_mode=threshold_mode,
        floor=floor,
    )
    return OnPlateau(metric, schedule.init, schedule.update)


def training_batch(task: Task, batch: PyTree, key: Key) -> PyTree:
    """The augmented batch, as the objective sees it in the step with this key.

    task: with its augment.
    batch: as the data set gives it.
    key: the step's key.
    """
    return batch if task.augment is None else task.augment(fold(key, "task augment"), batch)


def cache_calls(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    """The function with its last `size` results cached; with arguments that have no hash it is always called.

    A function among the arguments counts as another one when a global, a closure cell or a default that it
    reads is another object, as after a cell of a notebook was run again; so do the functions that it calls, if
    they are of its module. What was changed in place, such as an attribute, is not seen, but for entries of a list or
    dict.

    function: of positional arguments.
    size: the number of results to keep, at least 1.
    """
    results: OrderedDict[Any, tuple[tuple[_Identity, ...], Any]] = OrderedDict()
    lock = threading.Lock()

    def call(*args):
        try:
            hash(args)
        except TypeError:
            return function(*args)
        reads = tuple(read for part in _parts(args) for read in _values_read(part))
        with lock:
            before = results.get(args)
            if before is not None and before[0] == reads:
                results.move_to_end(args)
                return before[1]
        result = function(*args)
        with lock:
            results[args] = reads, result
            results.move_to_end(args)
            while len(results) > size:
                results.popitem(last=False)
        return result

    return call


def _parts(value: Any) -> Iterator[Any]:
    """The functions among arguments: those inside of tuples, and of what has an objective, the objectives."""
    value = getattr(value, "objective", value)
    value = value.parts if isinstance(value, AlternatingObjectives) else value
    if isinstance(value, tuple):
        for one in value:
            yield from _parts(one)
    else:
        yield value


class _Identity:
    """The very same object, without keeping it alive. Plain numbers and texts are the same where they are equal."""

    def __init__(self, value: Any):
        self.plain = (type(value), value) if isinstance(value, int | float | str | None) else None
        try:
            self.reference = weakref.ref(value)
        except TypeError:
            self.reference = lambda: value

    def __eq__(self, other: Any) -> bool:
        if self.plain is not None:
            return self.plain == other.plain
        value = self.reference()
        return value is not None and value is other.reference()


ENTRIES = 100
"""A list or dict with more entries is no list of layers or settings, and counts as one object."""


def _values_read(function: Any) -> tuple[_Identity, ...]:
    """What a function reads beside its arguments, and what the functions of its module read that it calls.

    Of functions of other modules, such as the wrapper that `jax.vmap` makes, what they hold and wrap; of models,
    objectives and optimizers, the functions that they consist of; of lists and dicts, the entries; of objects and
    classes of its module, the methods.
    """
    values: dict[int, Any] = {}
    call = getattr(function, "__call__", None)  # noqa: B004  that of a callable object of the user's is a method
    if isinstance(call, MethodType) and not isinstance(function, Model | Described | Objective):
        function = call
    waiting: list[Any] = [function] if isinstance(function, FunctionType | MethodType | partial) else []
    modules = _modules_of(function)
    while waiting:
        value: Any = waiting.pop()
        if isinstance(value, MethodType):  # another object at each access
            waiting += [value.__self__, value.__func__]
            continue
        if id(value) in values:
            continue
        values[id(value)] = value
        if isinstance(value, Model | Described):
            waiting += jax.tree.leaves((value.factory_call or ())[1:])
        if isinstance(value, Objective):
            waiting += [value.function, value.totals]
        if isinstance(value, list | tuple | dict) and type(value) in (list, tuple, dict) and len(value) <= ENTRIES:
            waiting += value.values() if isinstance(value, dict) else value
        methods = vars(value if isinstance(value, type) else type(value)).values()
        waiting += [f for f in methods if isinstance(f, FunctionType) and id(f.__globals__) in modules]
        if isinstance(value, partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, FunctionType):
            waiting += [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
            waiting += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            if id(value.__globals__) in modules:
                names = _globals_read(value.__code__)
                waiting += [value.__globals__[name] for name in names if name in value.__globals__]
        if callable(value) and not isinstance(value, type):
            waiting += [wrapped] if (wrapped := getattr(value, "__wrapped__", None)) is not None else []
    return tuple(map(_Identity, values.values()))


def _modules_of(function: Any) -> set[int]:
    """The globals, by identity, of a function and of those that it wraps as a decorator, a partial or a method does."""
    modules, passed = set(), set()
    while function is not None and id(function) not in passed:
        passed.add(id(function))
        if isinstance(function, FunctionType):
            modules.add(id(function.__globals__))
        inner = (getattr(function, name, None) for name in ("func", "__func__", "__wrapped__"))
        function = next((one for one in inner if one is not None), None)
    return modules


@lru_cache(maxsize=1024)
def _globals_read(code: CodeType) -> tuple[str, ...]:
    """The names of the globals that a function reads, and the functions that are written in it."""
    names = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return (*names, *(name for one in inner for name in _globals_read(one)))


def build_task(build: Build, hypers: Any, step: Any = 0) -> Task:
    """The checked task that `build` returns for the hypers at a step.

    build: hypers -> Task, or (hypers, step) -> Task.
    hypers: passed to it.
    step: 0-based.
    """
    if not callable(build):
        hint, actual = "Write def build(h): return ...", check.describe(build)
        check.fail(
            "train", expected="build should be a function hypers -> Task", actual=actual, hint=hint, exc_type=TypeError
        )
    task: Any = None
    try:
        task = build(hypers, step) if "step" in named_parameters(build) else build(hypers)
    except KeyError as error:
        if isinstance(hypers, dict) and error.args[0] not in hypers:
            check.fail("build", f"it reads hypers[{error.args[0]!r}], but hypers has {sorted(hypers)}.")
        raise
    except jax.errors.ConcretizationTypeError as error:
        error.add_note("build branched on a number of hypers, which may be traced: use jnp.where.")
        raise
    if not isinstance(task, Task):
        if not isinstance(task, tuple) or len(task) != 3:
            expected, actual = "it should return a Task(model, objective, optimizer)", check.describe(task)
            check.fail("build", expected=expected, actual=actual, exc_type=TypeError)
        model, objective, optimizer = task
        task = Task(model, objective, optimizer)
    return _check_task(task)


def join_models(task: Task) -> Task:
    """The task with one model, one objective and, if it has any, one optimizer, of several by name.

    task: as a build returns it.
    Raises: TypeError or ValueError where the names do not belong together.
    """
    model, objective, optimizer = task.model, task.objective, task.optimizer
    if not isinstance(model, Mapping):
        for name, value in {"objective": objective, "optimizer": optimizer}.items():
            if isinstance(value, Mapping):
                expected = f"{name} should be a dict only where model is one too"
                check.fail("build", expected=expected, actual=check.describe(model), exc_type=TypeError)
        return task._replace(model=as_model(model, where="build: model"))
    joint = joint_model(model)
    if isinstance(objective, Mapping):
        names, objective = tuple(objective), joint_objective(objective, joint)
        optimizer = optimizer and joint_optimizer(optimizer, names, joint)
    elif isinstance(optimizer, Mapping):
        optimizer = joint_optimizer(optimizer, (), joint)
    return task._replace(model=joint, objective=objective, optimizer=optimizer)


def _check_task(task: Task) -> Task:
    """The task with its model and optimizer as nnfunc's; refused where a part has the wrong type."""
    where = "build"
    task = join_models(task)
    check_objective(where, task.objective)
    check_metrics("metrics", task.objective, task.metrics)
    hint = factory_hint(task.augment, Augmentation)
    if task.augment is not None and (hint or not callable(task.augment)):
        expected = "augment should be a function (key, batch) -> batch, such as nf.augment.shift(2)"
        check.fail(where, expected=expected, actual=check.describe(task.augment), hint=hint, exc_type=TypeError)
    if isinstance(task.plateau, schedules.Plateau):
        hint = "Use nf.reduce_on_plateau(metric, ...), which scales the learning rate of the schedule."
        check.fail(where, "plateau should not be a schedule.", hint=hint, exc_type=TypeError)
    for name, methods, example in (
        ("average", ("init", "update", "read"), "nf.averages.ema(0.999)"),
        ("plateau", ("init", "update"), "nf.reduce_on_plateau('loss')"),
    ):
        value = getattr(task, name)
        if value is not None and not all(hasattr(value, method) for method in methods):
            expected, hint = f"{name} should be such as {example}", factory_hint(value)
            check.fail(where, expected=expected, actual=check.describe(value), hint=hint, exc_type=TypeError)
    check.size(where, accumulate=task.accumulate)
    if task.sharpness is not None:
        check.number(where, 0, sharpness=task.sharpness)
    return task._replace(optimizer=as_optimizer(task.optimizer, where=where))
