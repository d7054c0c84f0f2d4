"""The runs that a config names: one to adapt, one to start from, and the teacher of a distillation."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from nnfunc import check
from nnfunc.base import Layer, Model, Params, PyTree, Scalar, as_model
from nnfunc.config.file_paths import last_saved
from nnfunc.paths import flatten
from nnfunc.runs import status
from nnfunc.training.objectives import Objective, distillation
from nnfunc.training.starting import Resize, StartReport, load_into, report_start


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

        base = _load_base(self.run, "best", self.base_saved_at)
        return lora(model, base.params, self.on, rank=self.rank, alpha=self.alpha, train=self.train, state=base.state)


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

    run: the folder of the run, which has the same model.
    on: patterns of the weights that get an adapter.
    rank: at least 1.
    alpha: the strength of the corrections, whatever their rank.
    train: patterns of parameters that are trained themselves.
    base_saved_at: `last_saved(run)` when the config was built, by default now.
    Raises: ValueError when a number is out of its range, there is no such run, or the run has adapters itself.
    """
    check.size("lora", rank=rank)
    base_saved_at = _check_base("lora", run, "best", base_saved_at)
    return Adapters(run, on, rank, alpha, train, base_saved_at)


class StartedModel(Model):
    """A Model with `report()`, of what its init takes over from a trained run."""

    __slots__ = ("report",)
    report: Callable[[], StartReport]


class Start(NamedTuple):
    """A trained run to start from.

    run, only, skip, resize, checkpoint, base_saved_at: the arguments of `start_from`.
    """

    run: str
    only: tuple[str, ...]
    skip: tuple[str, ...]
    resize: Resize | None
    checkpoint: str
    base_saved_at: object

    def model(self, model: Layer) -> StartedModel:
        """The `model`, whose init and init_state take over the parameters and the state of the run."""
        model = as_model(model)

        def match(params: Params, state: PyTree) -> Any:
            base = _load_base(self.run, self.checkpoint, self.base_saved_at)
            pretrained = flatten(base.params) | flatten(base.state)
            leaves = flatten(params) | flatten(state)
            return pretrained, *report_start("start", leaves, pretrained, self.only, self.skip, self.resize)

        def init(key):
            params = model.init(key)
            return load_into(params, *match(params, model.state_shapes))

        def init_state(key=None):
            state = model.init_state(key)
            return load_into(state, *match(shapes(), state)) if jax.tree.leaves(state) else state

        shapes = lambda: jax.eval_shape(model.init, jax.random.key(0))
        started = StartedModel(init, forward=model.forward, init_state=init_state, name=model.name)
        started.report = lambda: match(shapes(), model.state_shapes)[1]
        return started


def start_from(
    run: str,
    *,
    only: tuple[str, ...] = ("**",),
    skip: tuple[str, ...] = (),
    resize: dict[str, Literal["part", "grid"]] | None = None,
    checkpoint: Literal["best", "last"] = "best",
    base_saved_at: object = None,
) -> Start:
    """Start from the parameters and the state, such as running statistics, of another run.

    run: its folder.
    only: patterns of the parameters and state to take over.
    skip: patterns of those to leave as they are, such as "head/**".
    resize: by pattern, what becomes of parameters with another size: "part" takes over the rows and columns that
        both have, such as those of the known tokens of a larger vocabulary; "grid" interpolates positions of a
        square grid of patches.
    checkpoint: "best" or "last".
    base_saved_at: `last_saved(run)` when the config was built, by default now.
    Raises: ValueError when there is no such run or checkpoint, or the run has adapters.
    """
    return Start(run, only, skip, resize, checkpoint, _check_base("start", run, checkpoint, base_saved_at))


def distillation_from(
    run: str,
    *,
    temperature: Scalar = 2.0,
    alpha: Scalar = 0.5,
    label_smoothing: Scalar = 0.0,
    ignore_index: int | None = None,
    checkpoint: Literal["best", "last"] = "best",
    base_saved_at: object = None,
) -> Objective:
    """The objective `nf.distillation`, whose teacher is the model of another run on the same data.

    run: the folder of the teacher's run.
    temperature, alpha, label_smoothing, ignore_index: as for `nf.distillation`.
    checkpoint: "best" or "last".
    base_saved_at: `last_saved(run)` when the config was built, by default now.
    Raises: ValueError when a number is out of its range, there is no such run, or the run has adapters.
    """
    base_saved_at = _check_base("objective", run, checkpoint, base_saved_at)

    def teacher(x: PyTree) -> Any:
        base = _load_base(run, checkpoint, base_saved_at)
        return base.model.apply(base.params, x, state=base.state)

    numbers: dict[str, Any] = {"temperature": temperature, "alpha": alpha, "label_smoothing": label_smoothing}
    return distillation(teacher, **numbers, ignore_index=ignore_index)


def _check_base(table: str, run: str, checkpoint: str, base_saved_at: object) -> object:
    """Check that the folder `run` has a trained model without adapters; when it was saved last."""
    if not (Path(run) / "config.toml").is_file():
        check.fail(table, expected="run should be the folder of a run", actual=repr(run))
    tables, problem = status.read_config(Path(run))
    if problem:
        check.fail(table, f"{run}: {problem}.")
    if "lora" in tables:
        hint = f"Merge them first: nnfunc merge {run} FOLDER"
        check.fail(table, expected="run should have no adapters", actual=f"{run!r}, which has some", hint=hint)
    base_saved_at = last_saved(run) if base_saved_at is None else base_saved_at
    _load_base(run, checkpoint, base_saved_at)
    return base_saved_at


@lru_cache(maxsize=2)
def _load_base(run: str, checkpoint: str, stamp: object) -> Any:
    from nnfunc.config.restore import load_run

    with jax.ensure_compile_time_eval():  # a build may run inside a trace, but loading needs values
        base = load_run(run, checkpoint)
        return base._replace(params=jax.device_get(base.params), state=jax.device_get(base.state))
