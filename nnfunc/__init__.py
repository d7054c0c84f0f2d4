"""nnfunc: neural networks as pairs of pure functions, `init(key)` and `apply(params, x)`, on JAX.

    import nnfunc as nf

Layers, combinators and models are here: `nf.linear`, `nf.serial`, `nf.mlp`. Plain numeric functions
are in modules of their own: `nf.activations`, `nf.initializers`, `nf.losses`, `nf.metrics`,
`nf.schedules`, `nf.optimizers`. Data sets are in `nf.data`, saving and loading in `nf.checkpoint`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nnfunc import activations, check, initializers, losses, metrics, paths, schedules
from nnfunc.base import Context, Model, Out, as_model
from nnfunc.combinators import (
    ensemble,
    parallel,
    precision,
    remat,
    repeat,
    residual,
    serial,
    tie,
    wire,
)
from nnfunc.layers.dropout import alpha_dropout, drop_path, dropout, mc_dropout
from nnfunc.layers.embedding import embedding
from nnfunc.layers.linear import bias, bilinear, linear, prelu, scale
from nnfunc.layers.norm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from nnfunc.layers.shape import flatten
from nnfunc.models.mlp import mlp
from nnfunc.summary import summary
from nnfunc.taps import capture, patch

if TYPE_CHECKING:  # imported when first used, so that `import nnfunc` stays quick
    from nnfunc import backprop, checkpoint, data, optimizers, testing, training
    from nnfunc.programs import load_run
    from nnfunc.training.evaluate import evaluate
    from nnfunc.training.loop import train
    from nnfunc.training.objectives import classification, language_modelling, regression
    from nnfunc.training.task import Task, trainer

__version__ = "0.1.0"

_LATER = {
    "backprop": "nnfunc.backprop",
    "checkpoint": "nnfunc.checkpoint",
    "data": "nnfunc.data",
    "optimizers": "nnfunc.optimizers",
    "testing": "nnfunc.testing",
    "training": "nnfunc.training",
    "Task": "nnfunc.training.task",
    "trainer": "nnfunc.training.task",
    "train": "nnfunc.training.loop",
    "evaluate": "nnfunc.training.evaluate",
    "load_run": "nnfunc.programs",
    "classification": "nnfunc.training.objectives",
    "language_modelling": "nnfunc.training.objectives",
    "regression": "nnfunc.training.objectives",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        hint = check.nearest(name, __all__) if not name.startswith("_") else ""
        raise AttributeError(f"module 'nnfunc' has no attribute {name!r}{hint}")
    module = importlib.import_module(_LATER[name])
    value = module if _LATER[name] == f"nnfunc.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "Context", "Model", "Out", "Task", "activations", "alpha_dropout", "as_model", "backprop",
    "batch_norm", "bias", "bilinear", "capture", "checkpoint", "classification", "data",
    "drop_path", "dropout", "embedding", "ensemble", "evaluate", "flatten", "group_norm",
    "initializers", "instance_norm", "language_modelling", "layer_norm", "linear", "load_run", "losses",
    "mc_dropout", "metrics", "mlp", "optimizers", "parallel", "patch", "paths", "precision",
    "prelu", "regression", "remat", "repeat", "residual", "rms_norm", "scale", "schedules",
    "serial", "summary", "testing", "tie", "train", "trainer", "training", "wire",
]  # fmt: skip
