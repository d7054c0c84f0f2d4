"""What a config may say of its task in a word: precision, recomputation, micro-batches, adapters."""

from typing import Literal, NamedTuple

from nnfunc import check
from nnfunc.base import Layer, Model, Scalar, as_model
from nnfunc.combinators import precision as in_precision
from nnfunc.combinators import remat_repeats

__all__ = ["TaskOptions", "log", "options"]


class TaskOptions(NamedTuple):
    """See `options`."""

    precision: str
    remat: bool
    accumulate: int
    sharpness: Scalar | None

    def model(self, model: Layer) -> Model:
        """The model in this precision, recomputed or not."""
        model = as_model(model)
        model = remat_repeats(model) if self.remat else model
        return in_precision(model) if self.precision == "bfloat16" else model


def options(
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
    accumulate: int = 1,
    sharpness: Scalar | None = None,
) -> TaskOptions:
    """How the model is computed, and its gradient taken.

    precision: what is calculated in; parameters, norms, losses and the optimizer stay float32. remat:
    whether repeated blocks are computed again in the backward pass, for less memory. accumulate: into
    how many micro-batches a batch is cut. sharpness: the radius of sharpness-aware minimization.
    Raises: ValueError when a number is out of its range.
    """
    check.size("task", accumulate=accumulate)
    if sharpness is not None:
        check.number("task", 0, sharpness=sharpness)
    return TaskOptions(precision, remat, accumulate, sharpness)


def log(*, to: tuple[Literal["tensorboard", "wandb"], ...] = ()) -> tuple[str, ...]:
    """Where the rows of a run go besides its folder: `nnfunc.runs.writers` says what each needs."""
    return to
