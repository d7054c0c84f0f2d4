"""The type of an objective, a function `(predict, batch) -> (loss, metrics)`, and how it is called."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, fold, named_parameters, required_parameters
from nnfunc.calls import Described, factory_hint

Totals = dict[str, Any]
"""{"loss": (sum, weight), metric: (sum, weight), ...}: they add up over batches."""
ObjectiveFunction = Callable[..., tuple[Array, dict[str, Array]]]
"""(predict, batch) -> (loss, metrics), with parameters named `key` and `step` where it reads them."""
OUTPUT_TYPES = {
    "classes": "logits [n, ..., classes], labels [n, ...]",
    "binary": "one logit for each row, [n] or [n, 1], targets 0 or 1",
    "labels": "logits [n, labels], targets 0 or 1 of the same shape",
    "values": "numbers of the shape of the targets",
    "quantiles": "[n, outputs * quantiles], targets [n, outputs] or [n]",
    "deviation": "means and log-deviations, [n, 2 * outputs] or a pair, targets [n, outputs] or [n]",
    "counts": "logarithms of rates, of the shape of the targets",
    "tokens": "logits [n, time, vocab_size], next tokens [n, time]",
    "tags": "logits [n, time, classes], tags [n, time]",
    "": "anything else",
}
"""How outputs and targets are read: the values of `Objective.output_type`."""


@dataclass(frozen=True, repr=False)
class Objective(Described):
    """An objective with a check of the data before the run, and totals for evaluations.

    function: (predict, batch) -> (loss, metrics).
    inspect: (y, arrays) -> None; y is the shape and dtype of the model's output, arrays the whole data set; it
        raises ValueError when they do not fit.
    output_type: how outputs are read, one of OUTPUT_TYPES.
    totals: (predict, batch, mask) -> {"loss": (sum, weight), metric: (sum, weight), ...}, whose ratios are the
        values of function; an evaluation adds them up over batches. mask [batch] holds booleans, False for examples
        that do not count and may hold anything; None counts all. Without totals the means of batches are weighted
        by their sizes.
    function and totals are also passed key and step if they have parameters of these names.
    ignore_index: the label of the targets that do not count, or None.
    restore: (y, output_type="values") -> outputs or targets in the units of the data's file, None if they are.
    quantiles: their number for each output, None for other types.
    centered: restore but for the mean of the targets, for metrics of differences; None where it is not exact.
    names: of the tags, for the metrics of entities, or None.
    """

    function: ObjectiveFunction
    inspect: Callable[[Any, PyTree], None] | None = None
    output_type: str = ""
    totals: Callable[..., Totals] | None = None
    ignore_index: int | None = None
    restore: Callable[..., Any] | None = None
    quantiles: int | None = None
    centered: Callable[..., Any] | None = None
    names: tuple[str, ...] | None = None

    @property
    def logits(self) -> bool:
        """Whether the outputs are logits, classes on the last axis."""
        return self.output_type in ("classes", "tokens", "tags")

    def __repr__(self) -> str:
        return super().__repr__() if self.factory_call else f"Objective({check.short_repr(self.function)})"

    def __call__(self, predict: Any, batch: PyTree, **arguments: Any) -> tuple[Array, dict[str, Array]]:
        return self.function(predict, batch, **arguments)


def _parameters(objective: Any) -> Collection[str]:
    """The names of the parameters of the function that an objective is made of."""
    while isinstance(objective, Objective):
        objective = objective.function
    return named_parameters(objective)


def draws_numbers(objective: Any) -> bool:
    """Whether an objective has a parameter named key, and so may draw random numbers."""
    return "key" in _parameters(objective)


def call_objective(function: Any, predict: Any, batch: PyTree, *args: Any, key: Key | None, step: Any) -> Any:
    """function(predict, batch, *args), with `key` and `step` if it has parameters of these names.

    function: an objective, or its totals.
    predict, batch, args: passed to it.
    key: the step's key, of which the objective gets a key of its own, so that the model's masks stay the same; None
        in an evaluation, where it always gets the same key.
    step: the 0-based step.
    """
    names = _parameters(function)
    arguments: dict[str, Any] = {}
    if "key" in names:
        arguments["key"] = fold(jax.random.key(0) if key is None else key, "objective")
    if "step" in names:
        arguments["step"] = jnp.asarray(step, jnp.int32)
    return function(predict, batch, *args, **arguments)


def check_result(result: Any) -> tuple[Any, dict[str, Any]]:
    """The (loss, metrics) that an objective returned. Raises: TypeError for anything else."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        expected = "it should return (loss, metrics), metrics being a dict such as {}"
        check.fail("objective", expected=expected, actual=check.describe(result), exc_type=TypeError)
    return result


def check_objective(where: str, objective: Any) -> None:
    """Refuse an objective that cannot be called as (predict, batch), with key and step by name.

    where: the function that refuses.
    objective: what a Task was given.
    """
    expected = "the objective should be a function (predict, batch) -> (loss, metrics), such as nf.classification()"
    hint = factory_hint(objective, Objective)
    if not callable(objective) or hint:
        check.fail(where, expected=expected, actual=check.describe(objective), hint=hint, exc_type=TypeError)
    function = objective
    while isinstance(function, Objective):
        function = function.function
    if len(required_parameters(function)) == 2 == len(named_parameters(function)):  # (predict, batch)
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    arguments = {name: None for name in ("key", "step") if name in _parameters(function)}
    try:
        signature.bind(None, None, **arguments)
    except TypeError:
        hint = "Beside predict and batch it may have parameters named key and step."
        check.fail(where, expected=expected, actual=f"parameters {signature}", hint=hint, exc_type=TypeError)
