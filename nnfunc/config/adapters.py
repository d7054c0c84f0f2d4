"""The config's table lora: low-rank adapters of a trained run."""

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
    """The adapters of a trained run.

    run, on, rank, alpha, train, base_saved_at: the arguments of `adapt`.
    """

    run: str
    on: tuple[str, ...]
    rank: int
    alpha: Scalar
    train: tuple[str, ...]
    base_saved_at: object

    def model(self, model: Layer) -> Model:
        """The model with adapters, on the run's frozen parameters. model: of the same shape as the run's."""
        from nnfunc.layers.lora import lora

        base = _load_base(self.run, self.base_saved_at)
        return lora(
            model, base.params, self.on, rank=self.rank, alpha=self.alpha, train=self.train, state=base.state
        )


def adapt(
    run: str,
    *,
    on: tuple[str, ...] = ("**/query/weight", "**/value/weight"),
    rank: int = 8,
    alpha: Scalar = 8.0,
    train: tuple[str, ...] = (),
    base_saved_at: object = None,
) -> Adapters:
    """Train low-rank adapters of the best checkpoint of another run, whose other parameters stay frozen.

    run: the folder of the run, which has the same model. on: patterns of the weights that get an adapter.
    rank, alpha, train: as for `nf.lora`. base_saved_at: `last_saved(run)` when the config was built, by default now.
    Raises: ValueError when a number is out of its range, there is no such run, or the run has adapters itself.
    """
    check.size("lora", rank=rank)
    file = Path(run) / "config.toml"
    if not file.is_file():
        check.fail("lora", expected="run should be the folder of a run", actual=repr(run))
    tables, problem = status.read_config(Path(run))
    if problem:
        check.fail("lora", f"{run}: {problem}.")
    if "lora" in tables:
        hint = f"Merge them first: nnfunc merge {run} FOLDER"
        check.fail("lora", expected="run should have no adapters", actual=f"{run!r}, which has some", hint=hint)
    base_saved_at = last_saved(run) if base_saved_at is None else base_saved_at
    _load_base(run, base_saved_at)
    return Adapters(run, on, rank, alpha, train, base_saved_at)


@lru_cache(maxsize=2)
def _load_base(run: str, stamp: object) -> Any:
    from nnfunc.config.restore import load_run

    with jax.ensure_compile_time_eval():  # a build may run inside a trace, but loading needs values
        base = load_run(run)
        return base._replace(params=jax.device_get(base.params), state=jax.device_get(base.state))
