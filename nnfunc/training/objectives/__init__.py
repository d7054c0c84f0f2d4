"""Objectives: functions `(predict, batch) -> (loss, metrics)`.

The objectives of this folder are means over the examples that count: weighted by class, and without
ignored labels. They also give the sum and the weight of each mean (`Objective.totals`), which an
evaluation adds up over batches of any sizes.
"""

from nnfunc.training.objectives.binary_objectives import binary, multilabel
from nnfunc.training.objectives.class_objectives import classification, focal, language_modelling, tagging
from nnfunc.training.objectives.contrastive_objective import contrastive
from nnfunc.training.objectives.distillation_objective import distillation
from nnfunc.training.objectives.number_objectives import gaussian, poisson, regression
from nnfunc.training.objectives.objective import (
    OUTPUT_TYPES,
    Objective,
    ObjectiveFunction,
    Totals,
    call_objective,
    check_objective,
    check_result,
    draws_numbers,
)

__all__ = [
    "OUTPUT_TYPES",
    "Objective",
    "ObjectiveFunction",
    "Totals",
    "binary",
    "call_objective",
    "check_objective",
    "check_result",
    "classification",
    "contrastive",
    "distillation",
    "draws_numbers",
    "focal",
    "gaussian",
    "language_modelling",
    "multilabel",
    "poisson",
    "regression",
    "tagging",
]
