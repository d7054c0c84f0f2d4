"""nnfunc: neural networks as pairs of pure functions, `init(key)` and `apply(params, x)`, on JAX.

    import nnfunc as nf

Layers, combinators and models are here: `nf.linear`, `nf.serial`, `nf.mlp`. Plain numeric functions
are in modules of their own: `nf.activations`, `nf.initializers`, `nf.losses`, `nf.metrics`,
`nf.schedules`, `nf.optimizers`, `nf.averages`. Data sets are in `nf.data`, augmentations in
`nf.augment`, saving and loading in `nf.checkpoint`.
"""

from nnfunc import early_signals  # answers signals while the rest is imported, for a second

# isort: split
from nnfunc.commands import interrupts

# isort: split
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnfunc import activations, check, initializers, losses, metrics, paths, schedules, xla_flags
from nnfunc.base import Context, Model, Nudge, Out, as_model
from nnfunc.calls import explain_calls
from nnfunc.combinators import parallel, precision, residual, serial, tie, wire
from nnfunc.intermediates import capture, patch, tapped
from nnfunc.layers.attention.functional import attend
from nnfunc.layers.attention.layer import AttentionInput, attention
from nnfunc.layers.attention.positions import alibi_slopes, learned_positions, rotary, sinusoidal_positions
from nnfunc.layers.conv.conv import conv, depthwise_conv, separable_conv
from nnfunc.layers.conv.transpose import conv_transpose
from nnfunc.layers.dropout import alpha_dropout, drop_path, dropout, mc_dropout
from nnfunc.layers.einsum_linear import einsum_linear
from nnfunc.layers.embedding import embedding, patch_embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.flatten import flatten
from nnfunc.layers.global_pool import adaptive_avg_pool, adaptive_max_pool, global_avg_pool, global_max_pool
from nnfunc.layers.linear import bias, bilinear, linear, prelu, scale
from nnfunc.layers.lora import lora, merge_lora
from nnfunc.layers.mixture_of_experts import mixture_of_experts
from nnfunc.layers.norm import batch_norm, group_norm, instance_norm, layer_norm, local_response_norm, rms_norm
from nnfunc.layers.pool import avg_pool, lp_pool, max_pool
from nnfunc.layers.recurrent.cells import gru_cell, initial_carry, lstm_cell, rnn_cell
from nnfunc.layers.recurrent.layers import RecurrentInput, gru, lstm, rnn
from nnfunc.layers.weight_norms import spectral_norm, weight_norm
from nnfunc.models.bert import BertInput, bert
from nnfunc.models.clip import clip, clip_text
from nnfunc.models.cnn import cnn, lenet
from nnfunc.models.convnext import convnext, convnext_small, convnext_tiny
from nnfunc.models.gpt import gpt
from nnfunc.models.llama import llama
from nnfunc.models.mixer import mixer
from nnfunc.models.mlp import mlp
from nnfunc.models.resnet import cifar_resnet, resnet, resnet18, resnet34, resnet50
from nnfunc.models.rnn import rnn_classifier, rnn_lm
from nnfunc.models.seq2seq import Seq2SeqInput, seq2seq
from nnfunc.models.table_model import table_model
from nnfunc.models.text_models import tagger, text_classifier
from nnfunc.models.transformer import TokenInput, TransformerInput, transformer_block
from nnfunc.models.vit import vit
from nnfunc.rematerialization import remat, remat_repeats
from nnfunc.stacked_layers import ensemble, repeat
from nnfunc.summary import summary

if TYPE_CHECKING:  # imported when first used, so that `import nnfunc` stays quick
    from nnfunc import backprop, checkpoint, data, debug, generation, optimizers, sweeps
    from nnfunc import errors as errors
    from nnfunc import testing as testing
    from nnfunc import training as training
    from nnfunc.config.restore import load_run
    from nnfunc.data import augment
    from nnfunc.distributed.mesh import mesh
    from nnfunc.distributed.placement import shardings
    from nnfunc.generation import generate
    from nnfunc.interop.export_model import export
    from nnfunc.interop.peft_adapters import lora_from_peft, lora_to_peft
    from nnfunc.interop.pretrained import Pretrained, pretrained
    from nnfunc.interop.stablehlo import load_exported
    from nnfunc.interop.to_pretrained import to_pretrained
    from nnfunc.malloc import keep_memory
    from nnfunc.optimizers import averages
    from nnfunc.sweeps.ensemble import ensemble_from
    from nnfunc.sweeps.space import choice, int_uniform, log_uniform, uniform
    from nnfunc.sweeps.sweep import sweep, sweep_plan
    from nnfunc.training.evaluate import evaluate
    from nnfunc.training.objectives import (
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
    from nnfunc.training.starting import starting_from
    from nnfunc.training.step import trainer
    from nnfunc.training.task import Task, reduce_on_plateau
    from nnfunc.training.train_run import train

__version__ = "0.1.0"

xla_flags.set_flags()  # XLA reads them when JAX starts, which no import above does

_LATER = {
    "augment": "nnfunc.data",
    "averages": "nnfunc.optimizers",
    "backprop": "nnfunc.backprop",
    "checkpoint": "nnfunc.checkpoint",
    "data": "nnfunc.data",
    "debug": "nnfunc.debug",
    "errors": "nnfunc.errors",
    "export": "nnfunc.interop.export_model",
    "generate": "nnfunc.generation",
    "generation": "nnfunc.generation",
    "keep_memory": "nnfunc.malloc",
    "optimizers": "nnfunc.optimizers",
    "testing": "nnfunc.testing",
    "training": "nnfunc.training",
    "sweeps": "nnfunc.sweeps",
    "ensemble_from": "nnfunc.sweeps.ensemble",
    "sweep": "nnfunc.sweeps.sweep",
    "sweep_plan": "nnfunc.sweeps.sweep",
    "uniform": "nnfunc.sweeps.space",
    "log_uniform": "nnfunc.sweeps.space",
    "int_uniform": "nnfunc.sweeps.space",
    "choice": "nnfunc.sweeps.space",
    "mesh": "nnfunc.distributed.mesh",
    "shardings": "nnfunc.distributed.placement",
    "Task": "nnfunc.training.task",
    "reduce_on_plateau": "nnfunc.training.task",
    "starting_from": "nnfunc.training.starting",
    "trainer": "nnfunc.training.step",
    "train": "nnfunc.training.train_run",
    "evaluate": "nnfunc.training.evaluate",
    "load_exported": "nnfunc.interop.stablehlo",
    "load_run": "nnfunc.config.restore",
    "Pretrained": "nnfunc.interop.pretrained",
    "lora_from_peft": "nnfunc.interop.peft_adapters",
    "lora_to_peft": "nnfunc.interop.peft_adapters",
    "pretrained": "nnfunc.interop.pretrained",
    "to_pretrained": "nnfunc.interop.to_pretrained",
    "classification": "nnfunc.training",
    "language_modelling": "nnfunc.training",
    "regression": "nnfunc.training",
    "binary": "nnfunc.training",
    "contrastive": "nnfunc.training",
    "distillation": "nnfunc.training",
    "focal": "nnfunc.training",
    "gaussian": "nnfunc.training",
    "multilabel": "nnfunc.training",
    "poisson": "nnfunc.training",
    "tagging": "nnfunc.training",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        hint = "" if name.startswith("_") or _is_module(name) else _where_is(name) or check.nearest(name, __all__)
        raise AttributeError(f"module 'nnfunc' has no attribute {name!r}{hint}")
    module = importlib.import_module(_LATER[name])
    value = module if _LATER[name] == f"nnfunc.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def _is_module(name: str) -> bool:
    """Whether `from nnfunc import name` asks here first, and imports the module then."""
    return any(Path(folder, file).exists() for folder in __path__ for file in (f"{name}.py", name))


def _where_is(name: str) -> str:
    """The end of an error: in which namespace a name stands that was looked for at the top."""
    for space in ("activations", "losses", "metrics", "schedules", "initializers", "optimizers", "data", "augment"):
        if name in importlib.import_module(_LATER.get(space, f"nnfunc.{space}")).__all__:
            return f"; it is nf.{space}.{name}."
    return ""


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AttentionInput",
    "BertInput",
    "Context",
    "Model",
    "Nudge",
    "Out",
    "Pretrained",
    "RecurrentInput",
    "Seq2SeqInput",
    "Task",
    "TokenInput",
    "TransformerInput",
    "activations",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "alibi_slopes",
    "alpha_dropout",
    "as_model",
    "attend",
    "attention",
    "augment",
    "averages",
    "avg_pool",
    "backprop",
    "batch_norm",
    "bert",
    "bias",
    "bilinear",
    "binary",
    "capture",
    "checkpoint",
    "choice",
    "cifar_resnet",
    "classification",
    "clip",
    "clip_text",
    "cnn",
    "contrastive",
    "conv",
    "conv_transpose",
    "convnext",
    "convnext_small",
    "convnext_tiny",
    "data",
    "debug",
    "depthwise_conv",
    "distillation",
    "drop_path",
    "dropout",
    "einsum_linear",
    "embedding",
    "ensemble",
    "ensemble_from",
    "errors",
    "evaluate",
    "export",
    "feed_forward",
    "flatten",
    "focal",
    "gaussian",
    "generate",
    "generation",
    "global_avg_pool",
    "global_max_pool",
    "gpt",
    "group_norm",
    "gru",
    "gru_cell",
    "initial_carry",
    "initializers",
    "instance_norm",
    "int_uniform",
    "keep_memory",
    "language_modelling",
    "layer_norm",
    "learned_positions",
    "lenet",
    "linear",
    "llama",
    "load_exported",
    "load_run",
    "local_response_norm",
    "log_uniform",
    "lora",
    "lora_from_peft",
    "lora_to_peft",
    "losses",
    "lp_pool",
    "lstm",
    "lstm_cell",
    "max_pool",
    "mc_dropout",
    "merge_lora",
    "metrics",
    "mixer",
    "mixture_of_experts",
    "mlp",
    "multilabel",
    "optimizers",
    "parallel",
    "patch",
    "patch_embedding",
    "paths",
    "poisson",
    "precision",
    "prelu",
    "pretrained",
    "reduce_on_plateau",
    "regression",
    "remat",
    "remat_repeats",
    "repeat",
    "residual",
    "resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "rms_norm",
    "rnn",
    "rnn_cell",
    "rnn_classifier",
    "rnn_lm",
    "rotary",
    "scale",
    "schedules",
    "separable_conv",
    "seq2seq",
    "serial",
    "sinusoidal_positions",
    "spectral_norm",
    "starting_from",
    "summary",
    "sweep",
    "sweep_plan",
    "sweeps",
    "table_model",
    "tagger",
    "tagging",
    "tapped",
    "testing",
    "text_classifier",
    "tie",
    "to_pretrained",
    "train",
    "trainer",
    "training",
    "transformer_block",
    "uniform",
    "vit",
    "weight_norm",
    "wire",
]

explain_calls(__name__)
