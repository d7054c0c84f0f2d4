"""Models as StableHLO programs, which any platform runs with JAX and without the code of the model.

A file is a ZIP archive without compression: metadata.json; program.bin, of `jax.export`, a function
(list of weights, list of inputs) -> list of outputs; and the bytes of each weight in weights/.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from nnfunc import check
from nnfunc.base import Array, PyTree
from nnfunc.calls import explain_call
from nnfunc.documents import find_mismatch, read_bytes
from nnfunc.interop.program import Program, explain

FORMAT, VERSION = "nnfunc exported model", 1
PLATFORMS = ("cpu", "cuda", "tpu")
MOST_BYTES = 2**40
SPEC = {"name": str, "shape": [(str, int)], "dtype": str}
FORM = {"format": str, "version": int, "inputs": [SPEC], "outputs": [SPEC], "weights": [SPEC]}


class ExportedModel:
    """The model of an exported file: y = model(x), with the preprocessing and the weights of the export.

    program: the function of `jax.export`.
    weights: its arrays, on the device.
    metadata: what the export recorded.
    It works inside `jax.jit`, and has neither gradient nor `jax.vmap`: the batch may have any size instead.
    """

    def __init__(self, program: export.Exported, weights: list[Array], metadata: Mapping[str, Any]):
        self.program, self.weights, self.metadata = program, weights, metadata

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the outputs, None without names."""
        names = self.metadata.get("names")
        return None if names is None else tuple(names)

    def __call__(self, x: PyTree) -> Array | dict[str, Array]:
        """The output of the model for a batch; a dict by name where it has several outputs.

        x: as the model took it when it was exported, before the preprocessing: [batch, ...] with any size of the
            batch; or a dict of the inputs by name.
        Raises: InvalidValueError for other shapes, InvalidTypeError for other dtypes.
        """
        specs = self.metadata["inputs"]
        leaves = [x[spec["name"]] for spec in specs if spec["name"] in x] if isinstance(x, dict) else jax.tree.leaves(x)
        if len(leaves) != len(specs):
            expected = f"x should have the inputs {', '.join(spec['name'] for spec in specs)}"
            check.fail("exported model", expected=expected, actual=check.counted(len(leaves), "array"))
        inputs = [_as_input(spec, leaf) for spec, leaf in zip(specs, leaves, strict=True)]
        outputs = self.call(inputs)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def call(self, inputs: Sequence[Any]) -> dict[str, Array]:
        """The outputs by name. inputs: in the order of the metadata, with its dtypes."""
        names = [spec["name"] for spec in self.metadata["outputs"]]
        return dict(zip(names, self._jitted(self.weights, list(inputs)), strict=True))

    @cached_property
    def _jitted(self) -> Callable[..., list[Array]]:
        return jax.jit(self.program.call)

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(_spec_text, self.metadata[part])) for part in ("inputs", "outputs"))
        return f"<nnfunc exported model {self.metadata.get('model', '')}: {inputs} -> {outputs}>"


@explain_call
def load_exported(file: str | Path) -> ExportedModel:
    """The model of a file that `nf.export` or `nnfunc export --to stablehlo` wrote; it needs JAX and flatbuffers alone.

    The code of the model and its preprocessing are not needed: the file has the compiled program's source, the
    weights, and as `metadata` the names of the classes, the preprocessing, the versions and the description of the
    model. The program runs on CPU, NVIDIA GPU and TPU, with any size of the batch.
    file: its path. A file may be read for half a year of newer versions of JAX, as `jax.export` promises.
    Raises: FileNotFoundError; ValueError for another or a damaged file; ImportError without flatbuffers.
    """
    file = Path(file)
    check.package("load_exported", "flatbuffers", "nnfunc[export]")
    try:
        archive = zipfile.ZipFile(io.BytesIO(read_bytes(file, MOST_BYTES)))
        metadata = json.loads(archive.read("metadata.json"))
        mismatch = find_mismatch(metadata, FORM)
        if mismatch or metadata["format"] != FORMAT:
            _refuse(file, mismatch or "it has another format")
        if metadata["version"] > VERSION:
            _refuse(file, f"its format has version {metadata['version']}", "A newer version of nnfunc reads it.")
        weights = [_read_weight(archive, spec) for spec in metadata["weights"]]
        program = archive.read("program.bin")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        _refuse(file, f"it cannot be read ({error})")
    try:
        exported = export.deserialize(bytearray(program))
    except Exception as error:  # jax.export raises exceptions of many classes
        versions = f"It was written with jax {metadata.get('jax')}, this is jax {jax.__version__}."
        _refuse(file, f"jax.export cannot read its program ({type(error).__name__}: {error})", versions)
    return ExportedModel(exported, jax.device_put(weights), metadata)


def write(program: Program, file: Path) -> list[Path]:
    """Write the program to a file, for `load_exported`; its path in a list."""
    check.package("export", "flatbuffers", "nnfunc[export]")
    weights = {path: np.asarray(w, w.dtype.newbyteorder("<")) for path, w in program.weights.items()}
    specs = [jax.ShapeDtypeStruct(w.shape, w.dtype) for w in weights.values()]
    metadata = program.metadata_with_specs
    with explain(program.model, "stablehlo"):
        exported = export.export(jax.jit(program.call), platforms=PLATFORMS)(specs, program.input_specs)
        content = exported.serialize()
    table = {
        "format": FORMAT,
        "version": VERSION,
        **metadata,
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "calling_convention": exported.calling_convention_version,
        "weights": [{"name": path, "shape": w.shape, "dtype": w.dtype.name} for path, w in weights.items()],
    }
    parts = {"metadata.json": json.dumps(table, indent=1, ensure_ascii=False).encode(), "program.bin": content}
    parts |= {f"weights/{path}": w.tobytes() for path, w in weights.items()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without the time, so that equal models give equal files
    return [file]


def open_file(file: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The function of a file of `write`: inputs by name -> outputs by name."""
    model = load_exported(file)
    return lambda inputs: jax.device_get(model.call(list(inputs.values())))


def _read_weight(archive: zipfile.ZipFile, spec: Mapping[str, Any]) -> np.ndarray:
    data = archive.read(f"weights/{spec['name']}")
    try:
        return np.frombuffer(data, jnp.dtype(spec["dtype"])).reshape(spec["shape"])
    except (ValueError, TypeError) as error:
        raise KeyError(f"weights/{spec['name']} is not {_spec_text(spec)}") from error


def _as_input(spec: Mapping[str, Any], leaf: Any) -> Array:
    name, shape, dtype = spec["name"], spec["shape"], jnp.dtype(spec["dtype"])
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    if array.ndim != len(shape) or list(array.shape[1:]) != shape[1:]:
        expected = f"{name} should have the shape [{', '.join(map(str, shape))}]"
        check.fail("exported model", expected=expected, actual=f"shape {array.shape}")
    if jnp.issubdtype(array.dtype, jnp.integer) and jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        check.within("exported model", int(info.min), int(info.max), "", **{name: array})
    elif array.dtype != dtype and not all(jnp.issubdtype(d, jnp.floating) for d in (array.dtype, dtype)):
        expected = f"{name} should hold {dtype}"
        check.fail("exported model", expected=expected, actual=array.dtype, exc_type=TypeError)
    return jnp.asarray(array, dtype)


def _spec_text(spec: Mapping[str, Any]) -> str:
    return f"{spec['name']} {spec['dtype']}[{', '.join(map(str, spec['shape']))}]"


def _refuse(file: Path, problem: str, hint: str = "Export the model again.") -> NoReturn:
    check.fail(str(file), f"{problem}.", hint=hint)
