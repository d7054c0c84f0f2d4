"""Training: a pair `init`, `step` made from a task, and the loop that runs it."""

from nnfunc.calls import explain_calls
from nnfunc.training.divergence import Diverged
from nnfunc.training.evaluate import evaluate
from nnfunc.training.gradients import BoundModel
from nnfunc.training.objectives import (
    Objective,
    binary,
    classification,
    contrastive,
    distillation,
    focal,
    gaussian,
    language_modelling,
    multilabel,
    poisson,
    regression,
    tagging,
)
from nnfunc.training.starting import StartReport, starting_from
from nnfunc.training.step import Trainer, trainer
from nnfunc.training.task import OnPlateau, Task, reduce_on_plateau
from nnfunc.training.train_run import History, Report, train
from nnfunc.training.train_state import TrainState, eval_params

__all__ = [
    "BoundModel",
    "Diverged",
    "History",
    "Objective",
    "OnPlateau",
    "Report",
    "StartReport",
    "Task",
    "TrainState",
    "Trainer",
    "binary",
    "classification",
    "contrastive",
    "distillation",
    "eval_params",
    "evaluate",
    "focal",
    "gaussian",
    "language_modelling",
    "multilabel",
    "poisson",
    "reduce_on_plateau",
    "regression",
    "starting_from",
    "tagging",
    "train",
    "trainer",
]

explain_calls(__name__)
