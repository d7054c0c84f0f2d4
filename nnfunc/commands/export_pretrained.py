"""The command `nnfunc export --to hf`: the model of a run as a folder for transformers, with a model card."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check, documents
from nnfunc.base import Model
from nnfunc.commands.export import load_examples
from nnfunc.commands.model_card import model_card
from nnfunc.config import Config
from nnfunc.config.load import resolve
from nnfunc.config.restore import Run, load_run
from nnfunc.data.tokenizers import Characters, Tokenizer
from nnfunc.interop.peft_adapters import lora_to_peft
from nnfunc.interop.pretrained import pretrained
from nnfunc.interop.to_pretrained import to_pretrained

TABLES = ("seed", "data", "model", "objective", "optimizer", "schedule", "train")
"""The tables of a config that make a model without precision, remat and the like, which change no parameter."""


def export_pretrained(folder: Path, target: Path, checkpoint: str = "best", *, tolerance: float = 1e-4) -> Path:
    """Write the model of a run as a folder that transformers loads, and return the folder.

    It has config.json with the names of the classes, model.safetensors, tokenizer.json of a language model, the
    settings of the image processor, and README.md: a model card with metrics, data and config. Of a run of adapters it
    has these alone, in the format of PEFT; `nnfunc merge` makes a run of the whole model.
    folder: of the run.
    target: a new folder.
    checkpoint: "best" or "last".
    tolerance: how far the outputs of the folder, read again, may be from those of the run, in parts of the largest
        output or of 1.
    Raises: ValueError when no published model has these layers; FileExistsError when the folder is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        check.fail("export", f"{target} is not an empty folder.", hint="Choose another.", exc_type=FileExistsError)
    documents.make_parent(target)
    run, lines = load_run(folder, checkpoint), []
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as temporary:
        written = Path(temporary) / target.name
        if "lora" in run.config.tables:
            tables = {key: run.config.tables[key] for key in (*TABLES, "lora") if key in run.config.tables}
            adapted = resolve(tables, where="export", records=run.config.records)
            lora_to_peft(adapted.build(adapted.hypers).model, run.params, written)
        else:
            model = _plain_model(run.config)
            to_pretrained(model, run.params, written, state=run.state, names=run.names)
            lines.append(_compare(run, model, written, tolerance))
            _write_tokenizer(run, written)
            _write_image_processor(run, written)
        documents.write_file(written / "README.md", model_card(run, folder, checkpoint, written).encode())
        if target.is_dir():
            target.rmdir()
        os.replace(written, target)
    files = ", ".join(sorted(file.name for file in target.iterdir()))
    print("\n".join([*lines, f"wrote {files} into {target}"]))
    return target


def _plain_model(config: Config) -> Model:
    tables = {key: config.tables[key] for key in TABLES if key in config.tables}
    plain = resolve(tables, where="export", records=config.records)
    return plain.build(plain.hypers).model


def _compare(run: Run, model: Model, folder: Path, tolerance: float) -> str:
    """Read the folder again and compare its outputs on held-out examples: a line about the difference."""
    again = pretrained(folder, model=model)
    examples = load_examples(run)
    transform = None if "window" in run.config.preprocessing.facts else run.config.preprocessing.transform
    x = examples.x if transform is None else transform(examples.x)
    outputs = [
        np.asarray(jax.jit(one.apply)(params, x, state=state), np.float64)
        for one, params, state in (
            (model, run.params, run.state),
            (again.model, again.params, again.model.init_state()),
        )
    ]
    difference = float(np.abs(outputs[0] - outputs[1]).max() / max(1.0, np.abs(outputs[0]).max()))
    if not difference <= tolerance:
        check.fail("export", f"the outputs of the folder differ from those of the run by {difference:.2g}.")
    return f"{check.counted(len(x), 'example')} {examples.source}: largest difference {difference:.2g}"


def _write_tokenizer(run: Run, folder: Path) -> None:
    """tokenizer.json of the run's codec; characters as a tokenizer whose words have one character."""
    codec: Any = run.config.preprocessing.codec
    if isinstance(codec, Tokenizer):
        text = codec.text
    elif isinstance(codec, Characters):
        text = json.dumps(_character_tokenizer(codec.characters), ensure_ascii=False)
    else:
        return
    documents.write_file(folder / "tokenizer.json", text.encode("utf-8"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    documents.write_file(folder / "tokenizer_config.json", f"{json.dumps(settings, indent=2)}\n".encode())


def _character_tokenizer(characters: str) -> dict[str, Any]:
    vocab = {character: i for i, character in enumerate(characters)}
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unknown>"},
    }


def _write_image_processor(run: Run, folder: Path) -> None:
    """preprocessor_config.json of images: their size, mean and deviation."""
    facts = run.config.preprocessing.facts
    pixels, shape = facts.get("pixels"), facts.get("image_shape") or facts.get("shape")
    if pixels is None or shape is None or len(shape) != 3:
        return
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": shape[0], "width": shape[1]},
        "do_rescale": True,
        "rescale_factor": 1 / pixels["scale"],
        "do_normalize": True,
        "image_mean": list(pixels["mean"]),
        "image_std": list(pixels["std"]),
    }
    documents.write_file(folder / "preprocessor_config.json", f"{json.dumps(settings, indent=2)}\n".encode())
