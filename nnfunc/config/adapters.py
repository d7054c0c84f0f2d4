"""The config's table lora: adapters of a trained run."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nnfunc import check
from nnfunc.base import Layer, Model, Scalar
from nnfunc.config.file_paths import last_saved
from nnfunc.runs import status

__all__ = ["Adapters", "adapt"]


class Adapters(NamedTuple):
    """See `adapt`."""

    run: str
    on: tuple[str, ...]
    rank: int
    alpha: Scalar
    base_saved_at: object

    def model(self, model: Layer) -> Model:
        """The adapters of the model, whose frozen parameters are those of the run."""
        from nnfunc.layers.lora import lora

        found = _trained(self.run, self.base_saved_at)
        own = {"rank": self.rank, "alpha": self.alpha, "state": found.state}
        return lora(model, found.params, self.on, **own)


def adapt(
    run: str,
    *,
    on: tuple[str, ...] = ("**/query/weight", "**/value/weight"),
    rank: int = 8,
    alpha: Scalar = 8.0,
    base_saved_at: object = None,
) -> Adapters:
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
    tables, problem = status.config_of(Path(run))
    if problem:
        check.fail("lora", f"{run}: {problem}.")
    if "lora" in tables:
        cure = f"Merge it first: nnfunc merge {run} FOLDER"
        check.fail("lora", f"run should be of a whole model, got the adapters of {run!r}. {cure}")
    base_saved_at = last_saved(run) if base_saved_at is None else base_saved_at
    _trained(run, base_saved_at)
    return Adapters(run, on, rank, alpha, base_saved_at)


@lru_cache(maxsize=2)
def _trained(run: str, stamp: object) -> Any:
    from nnfunc.config.restore import load_run

    with jax.ensure_compile_time_eval():  # a build may be inside of a trace, what it loads is not
        found = load_run(run)
        return found._replace(params=jax.device_get(found.params), state=jax.device_get(found.state))
