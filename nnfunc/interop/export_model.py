"""`nf.export`: a model as a file for another runtime, compared with the model before it is written."""

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.base import Model, Params, PyTree, resolve_state
from nnfunc.calls import explain_call
from nnfunc.device_memory import format_bytes
from nnfunc.documents import make_parent
from nnfunc.interop.program import Program, model_name

FORMATS = {
    "stablehlo": "nnfunc.interop.stablehlo",
    "onnx": "nnfunc.interop.onnx",
    "litert": "nnfunc.interop.litert",
    "numpy": "nnfunc.interop.numpy_program",
}
"""Format -> its module: `write(program, file) -> paths`, `open_file(file) -> function of the inputs by name`."""

RUNTIMES = {"stablehlo": "jax.export", "onnx": "ONNX Runtime", "litert": "LiteRT", "numpy": "NumPy"}


class ExportReport(NamedTuple):
    """What `nf.export` wrote, and how the outputs of the file compare with those of the model.

    to: the format.
    files: the paths.
    size: bytes of all files.
    examples: how many were compared.
    difference: the largest of an output, as a part of the largest output or of 1.
    metric: "accuracy" or "mae", None without labels.
    model, file: the values of that metric.
    quantized: the difference and the metric of the quantized file, which is then the one that is written; None
        without.
    """

    to: str
    files: list[Path]
    size: int
    examples: int
    difference: float
    metric: str | None = None
    model: float | None = None
    file: float | None = None
    quantized: tuple[float, float | None] | None = None

    def __str__(self) -> str:
        compared = check.counted(self.examples, "example")
        lines = [f"{compared} in {RUNTIMES[self.to]}: largest difference {self.difference:.2g}"]
        if self.metric is not None:
            lines.append(f"{self.metric} of the model {self.model:.4f}, of the file {self.file:.4f}")
        if self.quantized is not None:
            difference, value = self.quantized
            metric = "" if value is None else f", {self.metric} {value:.4f}"
            lines.append(f"quantized: largest difference {difference:.2g}{metric}")
        lines.append(f"wrote {' and '.join(map(str, self.files))} ({format_bytes(self.size)})")
        return "\n".join(lines)


@explain_call
def export(
    model: Model,
    params: Params,
    file: str | Path,
    example: PyTree,
    *,
    to: Literal["stablehlo", "onnx", "litert", "numpy"],
    state: PyTree | None = None,
    transform: Callable[[PyTree], PyTree] | None = None,
    names: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    labels: Any = None,
    tolerance: float = 1e-4,
    quantize: Literal["dynamic", "weights"] | None = None,
) -> ExportReport:
    """Write a model with its parameters as a file for another runtime.

    The file is run in that runtime on the example first. Nothing is written unless its outputs are those of the model.
    A batch may have any size, except in "litert".

    - "stablehlo": one file for `nf.load_exported`, which needs JAX alone; for CPU, NVIDIA GPU and TPU.
    - "onnx": one file for ONNX Runtime and others. Needs the extra: pip install 'nnfunc[onnx]'.
    - "litert": one .tflite file for phones and small devices, which takes one example at a time. Needs the extra:
      pip install 'nnfunc[litert]'.
    - "numpy": a Python program of a page, and its weights in a .safetensors file beside it; for `nf.mlp`, `nf.cnn`
      and `nf.gpt`.

    model, params: the model and its trained parameters.
    file: the path to write, for "numpy" one that ends with .py; its folder is made.
    example: the x of a batch, with leading axis n: its shapes and dtypes are those of the program, and its values
        are compared.
    to: the format.
    state: the model's running statistics.
    transform: x -> x, such as that of a data set, which becomes the first part of the program; example is the x
        before it.
    names: of the classes.
    metadata: more to write into the file, as JSON.
    labels: [n, ...] of the example, for the accuracy in the report (integers) or the mean absolute error (floats).
    tolerance: the largest difference of an output, in parts of the largest output or of 1; above 0.
    quantize: of "onnx", to weights of 8 bits: "weights" computes in float32, "dynamic" also quantizes the inputs of
        matrix products and convolutions. The report has its accuracy; tolerance is that of the file before it.
    Raises: ValueError when the model cannot be exported, with the layer or the primitive, or the outputs differ by
    more than the tolerance; ImportError without the packages of the format.

    >>> import tempfile, os
    >>> model = nf.mlp([4, 8, 3])
    >>> params, x = model.init(jax.random.key(0)), jnp.ones((5, 4))
    >>> file = os.path.join(tempfile.mkdtemp(), "model.py")
    >>> report = nf.export(model, params, file, x, to="numpy")
    >>> report.examples, report.difference < 1e-4
    (5, True)
    """
    check.choice("export", FORMATS, to=to)
    check.number("export", 0, open_low=True, tolerance=tolerance)
    check.on_host("export", "Pass arrays.", params=params, example=example, state=state)
    if quantize is not None:
        check.choice("export", ("dynamic", "weights"), quantize=quantize)
        if to != "onnx":
            check.fail("export", expected="quantize should be left out for other formats than onnx", actual=quantize)
    target = _check_file(Path(file), to)
    state = resolve_state(model, state, "export")
    description: dict[str, Any] = {"nnfunc": _version(), "model": repr(model)[len("<nnfunc model ") : -1]}
    description |= {} if names is None else {"names": list(names)}
    description |= metadata or {}
    program = Program(model, params, state, transform, example, description, batch=1 if to == "litert" else None)
    _check_example(program, labels)
    form = importlib.import_module(FORMATS[to])
    make_parent(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        files = form.write(program, Path(folder) / target.name)
        expected = program.reference(None if to == "stablehlo" else "highest")
        outputs = _run(form, files[0], program)
        difference = _difference(expected, outputs)
        if not difference <= tolerance:
            problem = f"the outputs of the {to} file differ from those of {model_name(model)} by {difference:.2g}"
            hint = f"The tolerance is {tolerance:g}. Nothing was written."
            check.fail("export", f"{problem} of the largest output or of 1.", hint=hint)
        values = [_metric(y, labels) for y in (expected, outputs)]
        quantized = None
        if quantize is not None:
            files = [Path(folder) / f"{target.name}.quantized"]
            form.quantize(Path(folder) / target.name, files[0], quantize)
            outputs = _run(form, files[0], program)
            quantized = _difference(expected, outputs), _metric(outputs, labels)[1]
        targets = [target, *(target.with_name(file.name) for file in files[1:])]
        size = sum(file.stat().st_size for file in files)
        for source, destination in zip(files, targets, strict=True):
            os.replace(source, destination)
    (metric, of_model), (_, of_file) = values
    count = len(next(iter(program.inputs.values())))
    return ExportReport(to, targets, size, count, difference, metric, of_model, of_file, quantized)


def _check_file(file: Path, to: str) -> Path:
    if to == "numpy" and (file.suffix != ".py" or not file.stem.isidentifier()):
        expected = "file should end with .py and have a name that Python can import, for numpy"
        check.fail("export", expected=expected, actual=file)
    if file.is_dir():
        check.fail("export", expected="file should be a file", actual=f"the folder {file}")
    return file


def _check_example(program: Program, labels: Any) -> None:
    sizes = {x.shape[0] if x.ndim else None for x in program.inputs.values()}
    if len(sizes) != 1 or sizes & {None, 0}:
        shapes = {name: x.shape for name, x in program.inputs.items()}
        expected = "example should be arrays with the same leading axis, of at least 1"
        check.fail("export", expected=expected, actual=f"shapes {shapes}")
    names, output = program.metadata.get("names"), program.output_specs[0]["shape"]
    if names is not None and output[-1:] != [len(names)]:
        expected = f"names should be those of the {output[-1]} outputs"
        check.fail("export", expected=expected, actual=check.counted(len(names), "name"))
    if labels is not None and np.shape(labels)[:1] != (sizes.pop(),):
        expected = f"labels should have the leading axis of example, {len(next(iter(program.inputs.values())))}"
        check.fail("export", expected=expected, actual=f"shape {np.shape(labels)}")


def _run(form: Any, file: Path, program: Program) -> list[np.ndarray]:
    """The outputs of the file for all examples, of which the first goes alone: another size of the batch."""
    function, inputs = form.open_file(file), program.inputs
    first, whole = (function({name: x[part] for name, x in inputs.items()}) for part in (slice(1), slice(None)))
    names = [spec["name"] for spec in program.output_specs]
    return [np.concatenate([first[name][:1], whole[name][1:]]) for name in names]


def _difference(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    """The largest difference of an output, in parts of the largest output or of 1; NaN where one has a NaN."""
    if [y.shape for y in expected] != [np.shape(y) for y in actual]:
        return np.inf
    pairs = [(np.asarray(y, np.float64), np.asarray(z, np.float64)) for y, z in zip(expected, actual, strict=True)]
    return float(np.max([np.abs(y - z).max(initial=0) / max(1.0, np.abs(y).max(initial=0)) for y, z in pairs]))


def _metric(outputs: Sequence[np.ndarray], labels: Any) -> tuple[str | None, float | None]:
    """The accuracy of logits, or the mean absolute error of numbers."""
    if labels is None:
        return None, None
    y, labels = np.asarray(outputs[0], np.float64), np.asarray(labels)
    if labels.dtype.kind in "iub" and y.shape[:-1] == labels.shape:
        counted = labels >= 0
        return "accuracy", float((y.argmax(-1) == labels)[counted].mean())
    if y.size == labels.size:
        return "mae", float(np.abs(y.reshape(labels.shape) - labels).mean())
    expected = "labels should be class indices or the shape of the output"
    check.fail("export", expected=expected, actual=f"shape {labels.shape} for outputs of shape {y.shape}")


def _version() -> str:
    return getattr(sys.modules["nnfunc"], "__version__", "unknown")
