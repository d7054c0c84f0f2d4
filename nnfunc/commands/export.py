"""The command `nnfunc export`: the model of a run as a file for another runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Context, Model, Out, Params, PyTree
from nnfunc.commands.interrupts import explain_full_disk
from nnfunc.config.restore import Run, load_run
from nnfunc.data.batch_transforms import Normalise
from nnfunc.data.dataset import count_examples
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.tokenizers import Codec
from nnfunc.errors import NnfuncError
from nnfunc.interop.export_model import FORMATS, ExportReport
from nnfunc.interop.export_model import export as export_model
from nnfunc.interop.onnx import QUANTIZATIONS

EXAMPLES = 100
COMPARED = ("classes", "tokens", "tags", "values")  # outputs that the report compares with labels


class _Examples(NamedTuple):
    """Examples to compare, and where they are from. x: before the preprocessing. labels: None without any."""

    x: Any
    labels: Any
    source: str


def export(
    folder: Path, file: Path, to: str, checkpoint: str = "best", *, quantize: str | None = None, tolerance: float = 1e-4
) -> ExportReport:
    """Write the model of a run as a file for another runtime, and print and return how its outputs compare.

    The preprocessing of images and of tables of numbers is a part of the file's program, and so are the units of scaled
    targets; the names of the classes, the tokenizer, the config and what other tables fitted are in its metadata.
    folder: of the run.
    file: to write.
    to: "stablehlo", "onnx", "litert" or "numpy".
    checkpoint: "best" or "last".
    quantize, tolerance: as in `nf.export`.
    Raises: ValueError when the model cannot be exported, or its outputs differ; nothing is written then.
    """
    check.choice("export", (*FORMATS, "hf"), to=to)
    if quantize is not None:
        check.choice("export", QUANTIZATIONS, quantize=quantize)
    run = load_run(folder, checkpoint)
    preprocessing = run.config.preprocessing
    if to == "numpy" and "target" in preprocessing.facts:
        expected, hint = "to should be another format for a run with scaled targets", "Export it to stablehlo or onnx."
        check.fail("export", expected=expected, actual=repr(to), hint=hint)
    examples = load_examples(run)
    metadata: dict[str, Any] = {
        "preprocessing": dict(preprocessing.facts),
        "config": run.config.text,
        "checkpoint": checkpoint,
    }
    if (folder / "codec.json").is_file():
        metadata["codec"] = (folder / "codec.json").read_text("utf-8")
    labels = examples.labels if run.output_type in ("", *COMPARED) else None
    print(f"{count_examples(examples.x)} examples {examples.source}")
    with explain_full_disk(file, "Export again."):
        report = export_model(
            _in_target_units(run),
            run.params,
            file,
            examples.x,
            to=to,  # pyright: ignore[reportArgumentType]  checked above
            state=run.state,
            transform=_transform(preprocessing),
            names=None if run.output_type == "binary" else run.names,  # it has one output
            metadata=metadata,
            labels=None if labels is None else preprocessing.restore_target(labels),
            tolerance=tolerance,
            quantize=quantize,  # pyright: ignore[reportArgumentType]  checked above
        )
    print(report)
    return report


def _in_target_units(run: Run) -> Model:
    """The model of the run, with outputs in the units of the file."""
    if "target" not in run.config.preprocessing.facts:
        return run.model

    def forward(params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        y, out = run.model.forward(params, x, ctx)
        return run.config.preprocessing.restore_target(y, run.output_type), out

    return Model(run.model.init, forward=forward, init_state=run.model.init_state, name=run.model.name)


def _transform(preprocessing: Preprocessing) -> Normalise | None:
    """What the exported program does with x before the model."""
    facts = preprocessing.facts
    if "window" in facts:  # the model reads tokens
        return None
    scaling = facts.get("standardise")
    if scaling is not None:
        return Normalise(tuple(scaling["mean"]), tuple(scaling["std"]), 1.0)
    return preprocessing.transform


def load_examples(run: Run) -> _Examples:
    """Examples of the test or validation split, evenly spaced; random ones if the data cannot be read."""
    facts = run.config.preprocessing.facts
    try:
        data = run.config.data()
        name, arrays = "test", run.config.test()
        if arrays is None:
            name, arrays = "validation", getattr(data, "validation", None)
    except (NnfuncError, OSError):
        x = _random_inputs(facts, run.config.preprocessing.codec)
        return _Examples(x, None, "are random, because the data of the run cannot be read")
    if arrays is None:
        x = _random_inputs(facts, run.config.preprocessing.codec)
        return _Examples(x, None, "are random, because the run has no other ones")
    count = len(jax.tree.leaves(arrays)[0])
    rows = np.unique(np.linspace(0, count - 1, EXAMPLES).astype(int))
    chosen = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], arrays)
    if "window" in facts:
        windows = np.asarray(chosen).astype(np.int32)
        x, labels = windows[:, :-1], windows[:, 1:]
    else:
        x, labels = chosen
    if facts.get("standardise") is not None:
        x = (x * np.array(facts["standardise"]["std"]) + np.array(facts["standardise"]["mean"])).astype(x.dtype)
    return _Examples(x, labels, f"of the {name} split")


def _random_inputs(facts: Mapping[str, Any], codec: Codec | None) -> PyTree:
    """Inputs of the shape and dtype of the training data; tokens of its codec."""
    generator = np.random.default_rng(0)
    if "window" in facts:
        return generator.integers(0, facts["classes"] or 2, (EXAMPLES, facts["window"] - 1)).astype(np.int32)
    if facts.get("categories"):
        ids = np.stack([generator.integers(0, size, EXAMPLES) for size in facts["categories"]], axis=1)
        numbers = generator.normal(size=(EXAMPLES, *facts["shape"])).astype(np.float32)
        x = {"numbers": numbers} if facts["shape"][0] else {}
        return x | {"categories": ids.astype(np.int32)}
    dtype, shape = jax.dtypes.canonicalize_dtype(np.dtype(facts["dtype"])), (EXAMPLES, *facts["shape"])
    if dtype.kind in "iu":
        size = 256 if codec is None else codec.size
        return generator.integers(0, min(np.iinfo(dtype).max + 1, size), shape).astype(dtype)
    scaling = facts.get("standardise") or {"mean": 0.0, "std": 1.0}
    return (generator.normal(size=shape) * np.array(scaling["std"]) + np.array(scaling["mean"])).astype(dtype)
