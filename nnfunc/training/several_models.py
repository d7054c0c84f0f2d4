"""Tasks of several models: one model for a trainer, objectives that take turns, and an optimizer for each.

In its turn an objective trains the parameters of one model. The state of every model that it calls moves, because
all of them run in training mode: a batch norm of a model that two objectives call is updated twice in a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from nnfunc import check
from nnfunc.base import Layer, Model, Params, PyTree, as_model, fold
from nnfunc.combinators import wire
from nnfunc.optimizers.optimizer import Optimizer, as_optimizer, require_params
from nnfunc.training.objectives import ObjectiveFunction, call_objective, check_objective, check_result


class JointModel(Model):
    """A Model of several, its parts by name; an objective calls each by itself, as predict.name(x)."""

    __slots__ = ()


def joint_model(models: Mapping[str, Layer]) -> JointModel:
    """The models by name as one, whose parameters and state are {name: those of the model}.

    models: at least one.
    Raises: TypeError when one is no layer; ValueError for names that cannot be part of a path.
    """
    children = {name: as_model(layer, where=f"build: model {name!r}") for name, layer in models.items()}
    if reserved := sorted({"ctx", "model", "params", "taps"} & set(children)):
        check.fail("build", expected="a model should not have the name of an attribute", actual=repr(reserved[0]))
    if not children:
        check.fail("build", expected="model should hold at least one model by name", actual="an empty dict")

    def several_models(net, x):
        call = f"predict.{next(iter(children))}(x)"
        check.fail("predict", f"the task has several models. Call one of them: {call}.", exc_type=TypeError)

    wired = wire(several_models, **children)
    functions = {"forward": wired.forward, "init_state": wired.init_state}
    return JointModel(wired.init, **functions, name="models", parts=wired.parts)


@dataclass(frozen=True)
class AlternatingObjectives:
    """Objectives that take turns in each step, in their order: each trains the model of its name alone.

    Called as one objective, as an evaluation does, the loss is their sum; their losses and metrics have the
    names of their models before them.
    parts: (name, objective) of each.
    """

    parts: tuple[tuple[str, ObjectiveFunction], ...]

    def __repr__(self) -> str:
        return check.short_repr(dict(self.parts))

    def __call__(self, predict: Any, batch: PyTree, *, key: Any = None, step: Any = 0) -> tuple[Any, dict[str, Any]]:
        total, metrics = 0.0, {}
        for name, objective in self.parts:
            loss, values = check_result(call_objective(objective, predict, batch, key=fold(key, name), step=step))
            total += loss
            metrics |= {f"{name}_loss": loss, **{f"{name}_{metric}": value for metric, value in values.items()}}
        return total, metrics


def joint_objective(objectives: Mapping[str, ObjectiveFunction], models: JointModel) -> AlternatingObjectives:
    """The objectives by model name as one. Raises: ValueError for a name that no model has."""
    for name, objective in objectives.items():
        _check_name("objective", name, models)
        check_objective(f"build: objective {name!r}", objective)
    if not objectives:
        check.fail("build", expected="objective should hold at least one objective by name", actual="an empty dict")
    return AlternatingObjectives(tuple(objectives.items()))


class JointOptimizer(Optimizer):
    """An Optimizer with `parts`, by the name of the model that each updates."""

    parts: dict[str, Optimizer]

    def __repr__(self) -> str:
        return repr(self.parts)

    def only(self, name: str) -> "JointOptimizer":
        """The same for one model alone: the others stay as they are. name: of that model."""
        single: Any = JointOptimizer(self.init, self.update)
        single.parts = {name: self.parts[name]}
        return single


def joint_optimizer(optimizers: Any, names: tuple[str, ...], models: JointModel) -> JointOptimizer:
    """One optimizer for each of the models called `names`; the other models keep their parameters.

    optimizers: one, which every model gets with a state of its own, or one for each of `names`.
    Raises: ValueError when a name is missing, or is no model's.
    """
    if isinstance(optimizers, Mapping):
        for name in optimizers:
            _check_name("optimizer", name, models)
        if missing := [name for name in names if name not in optimizers]:
            expected = f"optimizer should have one for the model {missing[0]!r}, which has an objective"
            check.fail("build", expected=expected, actual=f"those of {list(optimizers)}")
    else:
        optimizers = dict.fromkeys(names, optimizers)
    parts = {name: as_optimizer(one, where=f"build: optimizer {name!r}") for name, one in optimizers.items()}

    def init(params: Params) -> PyTree:
        return {name: one.init(params[name]) for name, one in parts.items() if name in params}

    def update(grads, state, params=None, *, rate_scale=None, gradient_norm=None, **extra):
        del gradient_norm  # of all models together
        require_params("build: optimizer", params)
        assert params is not None
        updates, new = jax.tree.map(lambda leaf: 0 * leaf, grads), {}
        for name in state:
            options = extra | ({} if rate_scale is None else {"rate_scale": rate_scale})
            options |= {"grad": grads[name]} if "grad" in extra else {}
            updates[name], new[name] = parts[name].update(grads[name], state[name], params[name], **options)
        return updates, new

    joint: Any = JointOptimizer(init, update)
    joint.parts = parts
    return joint


def _check_name(argument: str, name: str, models: JointModel) -> None:
    if name not in models.parts:
        near = check.nearest(name, models.parts)
        check.fail("build", f"{argument} should be by the names of models, got {name!r}{near}")
