"""Training: a pair `init`, `step` made from a task, and the loop that runs it."""

from nnfunc.calls import explain_calls
from nnfunc.training.divergence import Diverged
from nnfunc.training.evaluate import evaluate
from nnfunc.training.gradients import BoundModel
from nnfunc.training.objectives import Objective, classification, language_modelling, regression
from nnfunc.training.starting import StartReport, starting_from
from nnfunc.training.step import Trainer, TrainState, eval_params, trainer
from nnfunc.training.task import OnPlateau, Task, reduce_on_plateau
from nnfunc.training.train_run import History, Report, train

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
    "classification",
    "eval_params",
    "evaluate",
    "language_modelling",
    "reduce_on_plateau",
    "regression",
    "starting_from",
    "train",
    "trainer",
]

explain_calls(__name__)
