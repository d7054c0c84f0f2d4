"""What is trained: a model, what it is to achieve, how it is improved, and what goes with that.

Hyperparameters are arguments: `build(hypers)` makes the task inside the traced step. So one compiled
step serves every learning rate, and `jax.vmap` over hypers trains many at once.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from nnfunc import check, schedules
from nnfunc.base import Array, Key, Layer, PyTree, Scalar, as_model, fold, parameter_names
from nnfunc.optimizers import as_optimizer

__all__ = ["Build", "OnPlateau", "Task", "reduce_on_plateau"]


class OnPlateau(NamedTuple):
    """A scale of the learning rate that a validation figure drives; see `reduce_on_plateau`."""

    metric: str
    init: Callable[[], schedules.PlateauState]
    update: Callable[[schedules.PlateauState, Any], schedules.PlateauState]


class Task(NamedTuple):
    """A model, what it is to achieve, and how it is improved; the rest may be left out.

    model: a Model, an (init, apply) pair or a function. objective: (predict, batch) -> (loss, metrics),
    where predict(x) is the model's y. optimizer: any optax transformation.
    augment: (key, batch) -> batch, of `nf.augment` or your own, applied to the training batch in the
    compiled step. average: of `nf.averages`; what is evaluated and saved as best is then the averaged
    weights. plateau: `nf.reduce_on_plateau(...)`, which lowers the rate when a validation figure stops
    improving. sharpness: the radius of sharpness-aware minimization (SAM), which doubles the time
    of a step; None is off. accumulate: the number of equal micro-batches that a batch is cut into: the
    memory of one, and the mean of their losses, gradients and metrics, which is that of the whole where
    the objective is a mean over examples (not where it divides by a sum of weights of its own).
    """

    model: Layer
    objective: Callable[[Any, PyTree], tuple[Array, dict[str, Array]]]
    optimizer: Any
    augment: Callable[[Key, PyTree], PyTree] | None = None
    average: Any = None
    plateau: OnPlateau | None = None
    sharpness: Scalar | None = None
    accumulate: int = 1


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
    """Multiply the learning rate by `factor` when a validation figure has stopped improving.

    metric: "loss" or one of the objective's metrics, looked at after every evaluation: patience and
    cooldown count evaluations. mode: whether lower ("min") or higher ("max") is better. Better is by
    more than threshold, "relative" to the best so far or "absolute". floor: the smallest share of the
    rate. The scale is part of the train state; it multiplies whatever the schedule gives.
    Raises: ValueError as `nf.schedules.plateau` does. Source: PyTorch's ReduceLROnPlateau.

    >>> nf.reduce_on_plateau("accuracy", mode="max", patience=3, factor=0.5).metric
    'accuracy'
    """
    if not isinstance(metric, str):
        got = check.describe(metric)
        wanted = "the name of a validation figure, such as 'loss'"
        check.fail("reduce_on_plateau", f"metric should be {wanted}, got {got}.", exc_type=TypeError)
    scale = schedules.plateau(
        1.0,
        mode=mode,
        factor=factor,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        threshold_mode=threshold_mode,
        floor=floor,
    )
    return OnPlateau(metric, scale.init, scale.update)


def training_batch(task: Task, batch: PyTree, key: Key) -> PyTree:
    """The batch that the objective sees in the step whose key is `key`."""
    return batch if task.augment is None else task.augment(fold(key, "task augment"), batch)


def kept(make: Callable[..., Any], size: int) -> Callable[..., Any]:
    """make, with its last `size` results kept; for arguments without a hash it is called each time."""
    cached = lru_cache(maxsize=size)(make)

    def get(*args):
        try:
            hash(args)
        except TypeError:
            return make(*args)
        return cached(*args)

    return get


def built(build: Build, hypers: Any, step: Any = 0) -> Task:
    """What build makes of the hypers at a step, its kinds checked."""
    if not callable(build):
        got = check.describe(build)
        wanted = "a function hypers -> Task"
        cure = "Write def build(h): return ..."
        check.fail("train", f"build should be {wanted}, got {got}. {cure}", exc_type=TypeError)
    task: Any = None
    try:
        task = build(hypers, step) if _takes_step(build) else build(hypers)
    except KeyError as error:
        if isinstance(hypers, dict) and error.args[0] not in hypers:
            got = f"hypers that hold {sorted(hypers)}"
            check.fail("build", f"it reads hypers[{error.args[0]!r}], got {got}.")
        raise
    except jax.errors.ConcretizationTypeError as error:
        error.add_note("build branched on a number of hypers, which may be traced: use jnp.where.")
        raise
    if not isinstance(task, Task):
        if not isinstance(task, tuple) or len(task) != 3:
            wanted, got = "a Task(model, objective, optimizer)", check.describe(task)
            check.fail("build", f"it should return {wanted}, got {got}.", exc_type=TypeError)
        model, objective, optimizer = task
        task = Task(model, objective, optimizer)
    return _checked(task)


def _takes_step(build: Build) -> bool:
    """Whether build has a parameter of the name `step`."""
    try:
        return "step" in parameter_names(build)[0]
    except (TypeError, ValueError):
        return False


def _checked(task: Task) -> Task:
    """The task, its parts of the right kinds."""
    where = "build"
    if not callable(task.objective):
        wanted = "a function (predict, batch) -> (loss, metrics), such as nf.classification()"
        got = check.describe(task.objective)
        check.fail(where, f"the objective should be {wanted}, got {got}.", exc_type=TypeError)
    as_model(task.model, where="build: model")
    if task.augment is not None and not callable(task.augment):
        wanted = "a function (key, batch) -> batch, such as nf.augment.shift(2)"
        got = check.describe(task.augment)
        check.fail(where, f"augment should be {wanted}, got {got}.", exc_type=TypeError)
    for name, parts, such in (
        ("average", ("init", "update", "read"), "nf.averages.ema(0.999)"),
        ("plateau", ("init", "update"), "nf.reduce_on_plateau('loss')"),
    ):
        value = getattr(task, name)
        if value is not None and not all(hasattr(value, part) for part in parts):
            got = check.describe(value)
            check.fail(where, f"{name} should be such as {such}, got {got}.", exc_type=TypeError)
    plateau = task.plateau
    if isinstance(plateau, schedules.Plateau):
        cure = "nf.reduce_on_plateau(metric, ...) makes one that scales the schedule's."
        check.fail(where, f"plateau should not be a schedule of its own. {cure}", exc_type=TypeError)
    check.size(where, accumulate=task.accumulate)
    if task.sharpness is not None:
        check.number(where, 0, sharpness=task.sharpness)
    optimizer = as_optimizer(task.optimizer, where=where)
    return task._replace(optimizer=optimizer, plateau=plateau)
