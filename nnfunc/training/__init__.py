"""Training: a pair `init`, `step` made from a task, and the loop that runs it."""

from nnfunc.training.diverged import Diverged
from nnfunc.training.evaluate import evaluate
from nnfunc.training.loop import History, Report, train
from nnfunc.training.objectives import Objective, classification, language_modelling, regression
from nnfunc.training.task import Bound, Task, Trainer, TrainState, trainer

__all__ = [
    "Bound", "Diverged", "History", "Objective", "Report", "Task", "TrainState", "Trainer",
    "classification", "evaluate", "language_modelling", "regression", "train", "trainer",
]  # fmt: skip
