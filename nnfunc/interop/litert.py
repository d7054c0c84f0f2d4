"""Models as LiteRT files (.tflite), for phones and small devices, by the converter of LiteRT.

The converter takes a StableHLO program, such as the ones that JAX lowers to; TensorFlow and PyTorch are not needed.
A file takes one example at a time: the converter of version 0.5 refuses 3 of 10 models whose batch has any size.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from nnfunc import check
from nnfunc.interop.program import Program, explain

SIGNATURE = "serving_default"
METADATA = "nnfunc"


def write(program: Program, file: Path) -> list[Path]:
    """Write the program to a file, with the metadata as JSON under the name nnfunc; its path in a list."""
    ir, passes = _package("litert_converter.mlir.ir"), _package("litert_converter.mlir.passmanager")
    converter = _package("litert_converter.mlir._mlir_libs.converter_api_ext")
    names = list(program.inputs), [spec["name"] for spec in program.output_specs]
    with explain(program.model, "litert"):
        exported = export.export(jax.jit(program.simple_call(unroll=True)), platforms=["cpu"])(*program.input_specs)
        with ir.Context() as context:
            converter.prepare_mlir_context(context)
            module = ir.Module.parse(exported.mlir_module())
            converter.set_signature(
                module.operation, signature_name=SIGNATURE, input_names=names[0], output_names=names[1]
            )
            module = converter.merge_modules([module])
            config = converter.ConvertToTFLConfig()
            config.canonicalizing_inf_as_min_max_float = False
            converter.run_convert_to_tfl_passes(module, passes.PassManager(), config)
            content = converter.export_flatbuffer_to_bytes(module.operation)
    file.write_bytes(_with_metadata(content, program.metadata_texts))
    return [file]


def open_file(file: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The function of a file, by the interpreter of LiteRT: inputs by name -> outputs by name."""
    interpreter = _package("ai_edge_litert.interpreter").Interpreter(model_path=str(file))
    runner = interpreter.get_signature_runner(SIGNATURE)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(next(iter(inputs.values())))
        rows = [runner(**{name: x[i : i + 1] for name, x in inputs.items()}) for i in range(count)]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return run


def _with_metadata(content: bytes, texts: dict[str, str]) -> bytes:
    """The file with the metadata as JSON."""
    schema, flatbuffers = _package("litert_converter.schema_py_generated"), _package("flatbuffers")
    model, buffer, entry = schema.ModelT.InitFromPackedBuf(content, 0), schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = METADATA, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _package(name: str) -> Any:
    return check.package("export", name, "nnfunc[litert]")
