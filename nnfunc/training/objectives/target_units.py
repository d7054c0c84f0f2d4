"""Objectives whose metrics are in the units of the data's file, although the model learns scaled targets."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.data.preprocessing import restore_targets
from nnfunc.training.objectives.objective import Objective
from nnfunc.training.objectives.objective_totals import input_and_target, mean_objective


def in_target_units(objective: Any, target: Mapping[str, Any]) -> Any:
    """The objective with all metrics but the loss in the units of the file. The model runs once for both.

    objective: for scaled targets; one that is not of nnfunc stays as it is.
    target: how they were scaled, `splits.preprocessing.facts["target"]`.
    Raises: ValueError when the outputs are no numbers on the scale of the targets, such as rates.
    """
    where = "objective"
    if not isinstance(objective, Objective) or objective.totals is None:
        return objective
    if objective.output_type not in ("values", "quantiles", "deviation"):
        hint = "Take scale_target and log_target out of the table data, or use regression or gaussian."
        expected = "with scale_target or log_target the objective should predict values, quantiles or a deviation"
        check.fail(where, expected=expected, actual=f"outputs of type {objective.output_type!r}", hint=hint)
    scaled, restore = objective.totals, partial(restore_targets, target=target)
    centered = None
    if not target["log"]:  # restored but for the mean, which no difference has
        centered = partial(restore_targets, target={**target, "mean": (0.0,) * len(target["mean"])})

    def totals(predict, batch, mask):
        x, targets = input_and_target(where, batch)
        outputs = []

        def record(x):
            outputs.append(jax.tree.map(jnp.asarray, predict(x)))
            return outputs[-1]

        loss = scaled(record, batch, mask)["loss"]
        replay, again = iter(outputs), iter(outputs)
        metrics = scaled(
            lambda x: restore(next(replay), output_type=objective.output_type), (x, restore(jnp.asarray(targets))), mask
        )
        if centered is not None and "mae" in metrics:  # of large numbers it would be rounded
            near, output_type = centered, objective.output_type
            errors = scaled(lambda x: near(next(again), output_type=output_type), (x, near(jnp.asarray(targets))), mask)
            metrics["mae"] = errors["mae"]
        return metrics | {"loss": loss}

    restored = mean_objective(totals, objective.inspect, objective.output_type, objective.ignore_index)
    return replace(restored, restore=restore, centered=centered, quantiles=objective.quantiles)
