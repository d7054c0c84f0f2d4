"""The config tables task and log: precision, recomputation, micro-batches; destinations of metrics."""

from typing import Literal, NamedTuple

from nnfunc import check
from nnfunc.base import Layer, Model, Scalar, as_model
from nnfunc.combinators import precision as in_precision
from nnfunc.evaluation.thresholds import ThresholdMetric
from nnfunc.rematerialization import RematPolicyName, remat_repeats


class TaskOptions(NamedTuple):
    """How a task is computed.

    precision, remat, accumulate, sharpness, metrics, threshold: the arguments of `options`.
    """

    precision: str
    remat: bool | RematPolicyName | tuple[str, ...]
    accumulate: int
    sharpness: Scalar | None
    metrics: tuple[str, ...]
    threshold: str | None

    def model(self, model: Layer) -> Model:
        """The `model` in this precision, with its repeats recomputed or not."""
        model = as_model(model)
        if self.remat is not False:
            model = remat_repeats(model, policy=None if self.remat is True else self.remat)
        return in_precision(model) if self.precision == "bfloat16" else model


def options(
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    remat: bool | RematPolicyName | tuple[str, ...] = False,
    accumulate: int = 1,
    sharpness: Scalar | None = None,
    metrics: tuple[str, ...] = (),
    threshold: ThresholdMetric | None = None,
) -> TaskOptions:
    """How the model is computed, its gradient taken, and its outputs evaluated.

    precision: of the computation; parameters, norms, losses and the optimizer stay float32.
    remat: whether repeated blocks are computed again in the backward pass, to save memory; a text or a list of
        paths is the policy of `nf.remat_repeats`, the values inside blocks to store all the same.
    accumulate: into how many micro-batches a batch is split, at least 1.
    sharpness: the radius of sharpness-aware minimization.
    metrics: names of further metrics of evaluations, such as ["f1", "roc_auc"], as for `nf.Task`.
    threshold: the metric for which the probability is chosen from which on an answer is yes, on the validation
        split when the run ends.
    Raises: ValueError when a number is out of its range.
    """
    check.size("task", accumulate=accumulate)
    if sharpness is not None:
        check.number("task", 0, sharpness=sharpness)
    return TaskOptions(precision, remat, accumulate, sharpness, tuple(metrics), threshold)


def log(*, to: tuple[Literal["tensorboard", "wandb"], ...] = ()) -> tuple[str, ...]:
    """Where a run's metrics are written besides its folder.

    to: the writers; `nnfunc.runs.writers` says what each needs.
    """
    return to
