"""The command `nnfunc export`: the model of a run as a file for another runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.commands.interrupts import explain_full_disk
from nnfunc.config.restore import Run, load_run
from nnfunc.data.batch_transforms import Normalise
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.errors import NnfuncError
from nnfunc.interop.export_model import FORMATS, ExportReport
from nnfunc.interop.export_model import export as export_model
from nnfunc.interop.onnx import QUANTIZATIONS

__all__ = ["export", "load_examples"]

EXAMPLES = 100


class _Examples(NamedTuple):
    """Examples to compare, and where they are from. x: before the preprocessing. labels: None without any."""

    x: Any
    labels: Any
    source: str


def export(
    folder: Path, file: Path, to: str, checkpoint: str = "best", *, quantize: str | None = None, tolerance: float = 1e-4
) -> ExportReport:
    """Write the model of a run as a file for another runtime, and print and return how its outputs compare.

    The preprocessing of images and tables is a part of the file's program; the names of the classes, the tokenizer
    and the config are in its metadata.
    folder: of the run. file: to write. to: "stablehlo", "onnx", "litert" or "numpy". checkpoint: "best" or "last".
    quantize, tolerance: as in `nf.export`.
    Raises: ValueError when the model cannot be exported, or its outputs differ; nothing is written then.
    """
    check.choice("export", (*FORMATS, "hf"), to=to)
    if quantize is not None:
        check.choice("export", QUANTIZATIONS, quantize=quantize)
    run = load_run(folder, checkpoint)
    preprocessing = run.config.preprocessing
    examples = load_examples(run)
    metadata: dict[str, Any] = {
        "preprocessing": dict(preprocessing.facts),
        "config": run.config.text,
        "checkpoint": checkpoint,
    }
    if (folder / "codec.json").is_file():
        metadata["codec"] = (folder / "codec.json").read_text("utf-8")
    print(f"{len(examples.x)} examples {examples.source}")
    with explain_full_disk(file, "Export again."):
        report = export_model(
            run.model,
            run.params,
            file,
            examples.x,
            to=to,  # pyright: ignore[reportArgumentType]  checked above
            state=run.state,
            transform=_transform(preprocessing),
            names=run.names,
            metadata=metadata,
            labels=examples.labels,
            tolerance=tolerance,
            quantize=quantize,  # pyright: ignore[reportArgumentType]  checked above
        )
    print(report)
    return report


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
        return _Examples(_random_inputs(facts), None, "are random, because the data of the run cannot be read")
    if arrays is None:
        return _Examples(_random_inputs(facts), None, "are random, because the run has no other ones")
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


def _random_inputs(facts: Mapping[str, Any]) -> np.ndarray:
    """Inputs of the shape and dtype of the training data."""
    generator = np.random.default_rng(0)
    if "window" in facts:
        return generator.integers(0, facts["classes"] or 2, (EXAMPLES, facts["window"] - 1)).astype(np.int32)
    dtype, shape = jax.dtypes.canonicalize_dtype(np.dtype(facts["dtype"])), (EXAMPLES, *facts["shape"])
    if dtype.kind in "iu":
        return generator.integers(0, min(np.iinfo(dtype).max, 255) + 1, shape).astype(dtype)
    scaling = facts.get("standardise") or {"mean": 0.0, "std": 1.0}
    return (generator.normal(size=shape) * np.array(scaling["std"]) + np.array(scaling["mean"])).astype(dtype)
