"""What a config may say of its task in a word: precision, recomputation, micro-batches, adapters."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from nnfunc import check, runstate
from nnfunc.base import Layer, Model, Scalar, as_model
from nnfunc.combinators import precision as in_precision
from nnfunc.combinators import remat_repeats

__all__ = ["Adapters", "Options", "adapt", "log", "options", "stamp_of"]


class Options(NamedTuple):
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
    *, precision: Literal["float32", "bfloat16"] = "float32", remat: bool = False,
    accumulate: int = 1, sharpness: Scalar | None = None,
) -> Options:  # fmt: skip
    """How the model is computed, and its gradient taken.

    precision: what is calculated in; parameters, norms, losses and the optimizer stay float32. remat:
    whether repeated blocks are computed again in the backward pass, for less memory. accumulate: into
    how many micro-batches a batch is cut. sharpness: the radius of sharpness-aware minimization.
    Raises: ValueError when a number is out of its range.
    """
    check.size("task", accumulate=accumulate)
    if sharpness is not None:
        check.number("task", 0, sharpness=sharpness)
    return Options(precision, remat, accumulate, sharpness)


def log(*, to: tuple[Literal["tensorboard", "wandb"], ...] = ()) -> tuple[str, ...]:
    """Where the rows of a run go besides its folder: `nnfunc.writers` says what each needs."""
    return to


class Adapters(NamedTuple):
    """See `adapt`."""

    run: str
    on: tuple[str, ...]
    rank: int
    alpha: Scalar
    stamp: object

    def model(self, model: Layer) -> Model:
        """The adapters of the model, whose frozen parameters are those of the run."""
        from nnfunc.layers.lora import lora

        found = _trained(self.run, self.stamp)
        own = {"rank": self.rank, "alpha": self.alpha, "state": found.state}
        return lora(model, found.params, self.on, **own)


def adapt(
    run: str, *, on: tuple[str, ...] = ("**/query/weight", "**/value/weight"), rank: int = 8,
    alpha: Scalar = 8.0, stamp: object = None,
) -> Adapters:  # fmt: skip
    """Train low-rank adapters of the best checkpoint of another run, whose own parameters stay.

    run: its folder; the model is to be the same. on: patterns of the weights that get an adapter.
    rank, alpha: as for `nf.lora`. stamp: `stamp_of(run)` when the config was built, now by default.
    Raises: ValueError when a number is out of its range, there is no such run, or it is itself one of
    adapters.
    """
    check.size("lora", rank=rank)
    file = Path(run) / "config.toml"
    if not file.is_file():
        check.fail("lora", f"run should be the folder of a run, got {run!r}.")
    tables, problem = runstate.config_of(Path(run))
    if problem:
        check.fail("lora", f"{run}: {problem}.")
    if "lora" in tables:
        cure = f"Merge it first: nnfunc merge {run} FOLDER"
        check.fail("lora", f"run should be of a whole model, got the adapters of {run!r}. {cure}")
    stamp = stamp_of(run) if stamp is None else stamp
    _trained(run, stamp)
    return Adapters(run, on, rank, alpha, stamp)


def stamp_of(run: str) -> float:
    """When the checkpoints of a run last changed: what is compiled of others is out of date."""
    return max((path.stat().st_mtime for path in Path(run).glob("checkpoints/*")), default=0.0)


@lru_cache(maxsize=2)
def _trained(run: str, stamp: object) -> Any:
    from nnfunc.loading import load_run

    with jax.ensure_compile_time_eval():  # a build may be inside of a trace, what it loads is not
        found = load_run(run)
        return found._replace(
            params=jax.device_get(found.params), state=jax.device_get(found.state)
        )
