"""The command `nnfunc import`: a run of a published model, with what it reads its inputs by."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Model
from nnfunc.checkpoint import save_best, save_step
from nnfunc.commands.run_training import new_folder
from nnfunc.config.data_records import DataRecords
from nnfunc.config.load import resolve
from nnfunc.config.restore import save_run
from nnfunc.config.schema import factories
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.tokenizers import Codec, load_codec
from nnfunc.interop.pretrained import Pretrained, pretrained, published_model
from nnfunc.interop.published_config import arguments_of
from nnfunc.interop.published_inputs import class_names, image_settings
from nnfunc.models.bert import bert
from nnfunc.models.convnext import convnext
from nnfunc.models.gpt import gpt
from nnfunc.models.llama import llama
from nnfunc.models.resnet import resnet
from nnfunc.models.vit import vit
from nnfunc.runs import run_folder
from nnfunc.training.step import trainer

TOKENIZER = "tokenizer.json"
NO_DATA = "no-data-was-imported"
"""The name of the data of a run without data, which messages show."""


class _Inputs(NamedTuple):
    """How a model reads its inputs: the table data of the config, the facts of its preprocessing, and the codec."""

    table: dict[str, Any]
    facts: dict[str, Any]
    codec: Codec | None = None


def import_weights(
    source: str, folder: Path, data: Path | None = None, *, block_size: int | None = None, revision: str | None = None
) -> Path:
    """Write a run with the weights of a published model, and return its folder.

    It may be a language model, a classifier of texts (BERT, RoBERTa, DistilBERT, or a language model with such a head)
    or of images (ViT, DeiT, ResNet, ConvNeXt). `sample` or `predict`, `evaluate`, `nf.load_run`,
    `start = { run = ... }` and `lora = { run = ... }` accept the run. imported.json names its origin. Parameters are
    float32. A BERT or a model of images that was published without a head for classes gets a new one.
    source: a folder with config.json, weights, and tokenizer.json or preprocessor_config.json, or
        "hf://owner/name".
    folder: a new or empty one.
    data: to evaluate on: a text of which the last tenth is the validation split; a table or folder of texts, or a
        folder of images, of the classes of the model.
    block_size: tokens per example, by default what the model reads, 256 at most.
    revision: of the hub, as in `nf.pretrained`.
    Raises: ValueError when no run stands for the model, as for encoder-decoders, and for data without a head for
    classes; FileNotFoundError without its tokenizer or image settings; FileExistsError when the folder is not
    empty.
    """
    result = _read(source, revision)
    factory, arguments = arguments_of(result.stateless)
    read = {inspect.unwrap(model): reader for model, reader in READERS.items()}.get(factory)
    read = _read_sentences if arguments.get("output") == "classes" else read
    if read is None:
        hint = "Use it in Python: model, params = nf.pretrained(source)."
        models = "a language model, a BERT or a model of images"
        check.fail("import", f"{source} is {result.family}, but only {models} can become a run.", hint=hint)
    if result.unfilled and data is not None:
        hint = "Leave out --data, and train the head with start = { run = ... }."
        check.fail("import", f"{source} has no head for classes, so it cannot be evaluated on {data}.", hint=hint)
    inputs = read(result, arguments, block_size)
    table = {"path": str(data.absolute()) if data else str(folder.absolute() / NO_DATA)}
    if inputs.table["name"] == "text_classification":
        table = {"source": table["path"]}
    tables = {
        "seed": 0,
        "data": inputs.table | table | {"batch_size": 8},
        "model": {"name": factory.__name__, **_model_table(result.stateless)},
        "objective": {"name": "language_modelling" if inputs.table["name"] == "text" else "classification"},
        "optimizer": {"name": "sgd", "learning_rate": 0.0},  # no state beside the parameters
        "train": {"steps": 1},
    }
    origin = {"source": result.source, "revision": result.revision, "family": result.family}
    with new_folder("", folder, "stopped; nothing was written"):
        config = resolve(tables, where="import")
        rows = None if inputs.table["name"] == "text" else np.empty(0, np.uint64)  # none is known yet
        record = Preprocessing(inputs.table["name"], inputs.facts, {}, rows, inputs.codec)
        if data is not None:
            earlier = None if inputs.table["name"] == "text" else record
            _, name, values = config.part("data")
            record = factories("data")[name](**values, preprocessing=earlier).preprocessing
        record.save(folder)
        config = resolve(tables, where="import", records=DataRecords(folder))
        state = jax.jit(trainer(config.build).init)(config.hypers, config.key())
        state = state._replace(params=result.params, model_state=result.model.init_state())
        save_run(config, folder)
        run_folder.write_environment(folder)
        run_folder.write_json(folder / run_folder.IMPORTED, origin)
        save_best(folder / "checkpoints", state, metadata=origin)
        save_step(folder / "checkpoints", 0, {"state": state}, metadata=origin)  # the checkpoint "last"
    count = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(f"imported {source} ({result.family}, {count:,} parameters) into {folder}")
    if result.unfilled:
        new = check.join_names(result.unfilled)
        print(f"its head for classes is new ({new}): train it with start = {{ run = ... }} before you predict")
    return folder


def _read(source: str, revision: str | None) -> Pretrained:
    """The model with its weights; a BERT or a ViT without a head for classes with a new one."""
    factory, arguments, family, config, commit = published_model(source, revision)
    options: dict[str, Any] = {"dtype": jnp.float32, "revision": commit}
    new: dict[str, Any] = {"unfilled": "head/**", "key": jax.random.key(0)}
    output = arguments.get("output")
    if output in ("token_classes", "spans") or (output == "hidden" and not arguments.get("tied", True)):
        hint = "Use it in Python: model, params = nf.pretrained(source)."
        problem = "no head" if output == "hidden" else f"a head for tokens ({output})"
        check.fail("import", f"{source} is {family} with {problem}, which cannot become a run.", hint=hint)
    if factory is inspect.unwrap(bert):
        padding = config.get("pad_token_id")
        options["padding_index"] = int("roberta" in family) if padding is None else padding
        if output != "classes":
            options |= new | {"output": "classes", "unused": ("cls.*", "lm_head.*", "vocab_*")}  # for masked tokens
    elif output == "hidden":  # a decoder, whose head may be its table
        options["output"] = "tokens"
    elif arguments.get("classes", 0) is None:  # a model of images
        options |= new | {"classes": 2}
    return pretrained(source, **options)


def _tokenizer(result: Pretrained) -> Path:
    file = result.folder / TOKENIZER
    if not file.is_file():
        hint = f"Save it: AutoTokenizer.from_pretrained({str(result.source)!r}).save_pretrained(folder)."
        check.fail("import", f"{result.folder} has no {TOKENIZER}.", hint=hint, exc_type=FileNotFoundError)
    return file.absolute()


def _read_text(result: Pretrained, arguments: Mapping[str, Any], block_size: int | None) -> _Inputs:
    longest = min(arguments.get("block_size", 256), 256) if block_size is None else block_size
    file = _tokenizer(result)
    codec = load_codec(file)
    facts = {"classes": codec.size, "window": longest + 1, "dtype": "int32", "cut": 0, "used": 0, "total": 0}
    return _Inputs({"name": "text", "codec": str(file), "block_size": longest}, facts, codec)


def _read_sentences(result: Pretrained, arguments: Mapping[str, Any], block_size: int | None) -> _Inputs:
    file = _tokenizer(result)
    longest = min(arguments.get("block_size", 256), 256) if block_size is None else block_size
    if arguments["padding_index"] is None:
        file = result.folder / "config.json"
        check.fail("import", f"{file} has no pad_token_id, which fills up the shorter texts of a batch.")
    problem = result.config.get("problem_type")
    if arguments["classes"] < 2 or problem not in (None, "single_label_classification"):
        actual = f"{check.counted(arguments['classes'], 'class')}, problem_type {problem!r}"
        expected = "the model should have at least 2 classes, of which a text has one"
        check.fail("import", expected=expected, actual=actual)
    names = class_names(result.config, arguments["classes"])
    facts = {"text": "text", "label": "label", "separator": ",", "block_size": longest, "names": names}
    facts |= {"classes": len(names), "dtype": "int32", "shape": [longest], "padding": arguments["padding_index"]}
    table = {"name": "text_classification", "codec": str(file), "block_size": longest}
    return _Inputs(table, facts, load_codec(file))


def _read_images(result: Pretrained, arguments: Mapping[str, Any], block_size: int | None) -> _Inputs:
    if block_size is not None:
        check.fail("import", "only models of text have a block_size.", hint="Leave out --block-size.")
    names = class_names(result.config, arguments["classes"])
    settings = image_settings(result.config, result.folder)
    shape = [*settings["size"], arguments["in_dim"]]
    if arguments["in_dim"] not in (1, 3) or len(settings["mean"]) != arguments["in_dim"]:
        expected = "the model should read images of 1 or 3 channels, each with a mean"
        check.fail("import", expected=expected, actual=f"{arguments['in_dim']} channels, mean {settings['mean']}")
    resize = {"stretch": False, "crop": None, "interpolation": "bilinear"}
    facts = {
        **{"names": names, "classes": len(names), "layout": "image", "image_shape": None, "dtype": "uint8"},
        "pixels": {"mean": settings["mean"], "std": settings["std"], "scale": 255.0},
        **{"shape": shape, "image": shape, "size": settings["size"], "white": None},
        "resize": {name: settings.get(name, value) for name, value in resize.items()},
    }
    return _Inputs({"name": "images", "channels": arguments["in_dim"], **settings}, facts)


READERS: dict[Callable[..., Model], Callable[[Pretrained, Mapping[str, Any], int | None], _Inputs]] = {
    **dict.fromkeys((gpt, llama), _read_text),
    bert: _read_sentences,
    **dict.fromkeys((vit, resnet, convnext), _read_images),
}


def _model_table(model: Model) -> dict[str, Any]:
    """The arguments of a model that differ from their defaults, as a table of a config."""
    factory, arguments = arguments_of(model)
    defaults = {name: parameter.default for name, parameter in inspect.signature(factory).parameters.items()}
    table = {name: value for name, value in arguments.items() if value is not None and value is not defaults[name]}
    return {name: _plain(value) for name, value in table.items() if not np.array_equal(value, defaults[name])}


def _plain(value: Any) -> Any:
    """The value as TOML has it."""
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
