"""The command `nnfunc import`: a run of a published language model, with its tokenizer."""

import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Model
from nnfunc.checkpoint import save_best, save_step
from nnfunc.commands.run_training import new_folder
from nnfunc.config.load import resolve
from nnfunc.config.restore import save_run
from nnfunc.interop.pretrained import pretrained
from nnfunc.interop.published_config import arguments_of
from nnfunc.models.gpt import gpt
from nnfunc.models.llama import llama
from nnfunc.runs import run_folder
from nnfunc.training.step import trainer

__all__ = ["import_weights"]

IMPORTED = "imported.json"
TOKENIZER = "tokenizer.json"
MODELS = (gpt, llama)


def import_weights(
    source: str, folder: Path, text: Path, *, block_size: int | None = None, revision: str | None = None
) -> Path:
    """Write a run with the weights of a published language model, and return its folder.

    `sample`, `evaluate`, `nf.load_run`, `start = { run = ... }` and `lora = { run = ... }` accept it. imported.json
    names its origin. Parameters are float32.
    source: a folder with config.json, weights and tokenizer.json, or "hf://owner/name". folder: a new or empty one.
    text: a file in UTF-8, whose last tenth is the validation split of `evaluate`. block_size: tokens per example, by
    default what the model reads, 256 at most. revision: of the hub, as in `nf.pretrained`.
    Raises: ValueError when it is not a language model with a tokenizer.json; FileExistsError when the folder is not
    empty.
    """
    result = pretrained(source, dtype=jnp.float32, revision=revision)
    factory, arguments = arguments_of(result.model)
    if factory not in [inspect.unwrap(model) for model in MODELS]:
        hint = "Others are read in Python: nf.pretrained."
        check.fail("import", f"{source} is {result.family}, which is not a language model.", hint=hint)
    tokenizer = result.folder / TOKENIZER
    if not tokenizer.is_file():
        hint = f"Save it: AutoTokenizer.from_pretrained({str(source)!r}).save_pretrained(folder)."
        check.fail("import", f"{result.folder} has no {TOKENIZER}.", hint=hint, exc_type=FileNotFoundError)
    longest = min(arguments.get("block_size", 256), 256)
    tables = {
        "seed": 0,
        "data": {
            "name": "text",
            "path": str(text.absolute()),
            "codec": str(tokenizer.absolute()),
            "block_size": longest if block_size is None else block_size,
            "batch_size": 8,
        },
        "model": {"name": factory.__name__, **_table("import", result.model)},
        "objective": {"name": "language_modelling"},
        "optimizer": {"name": "sgd", "learning_rate": 0.0},  # no state beside the parameters
        "train": {"steps": 1},
    }
    config = resolve(tables, where="import")
    state = jax.jit(trainer(config.build).init)(config.hypers, config.key())._replace(params=result.params)
    origin = {"source": result.source, "revision": result.revision, "family": result.family}
    with new_folder("", folder, "stopped; nothing was written"):
        save_run(config, folder)
        run_folder.write_environment(folder)
        run_folder.write_json(folder / IMPORTED, origin)
        save_best(folder / "checkpoints", state, metadata=origin)
        save_step(folder / "checkpoints", 0, {"state": state}, metadata=origin)  # the checkpoint "last"
    count = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(f"imported {source} ({result.family}, {count:,} parameters) into {folder}")
    return folder


def _table(where: str, model: Model) -> dict[str, Any]:
    """The arguments of a model that differ from their defaults, as a table of a config."""
    factory, arguments = arguments_of(model)
    defaults = {name: parameter.default for name, parameter in inspect.signature(factory).parameters.items()}
    table = {name: value for name, value in arguments.items() if value is not None and value is not defaults[name]}
    for name, value in table.items():
        if isinstance(value, Model):
            hint = "Read it in Python: nf.pretrained."
            check.fail(where, f"{name} of the model cannot be written in a config.", hint=hint)
    return {name: value for name, value in table.items() if not np.array_equal(value, defaults[name])}
