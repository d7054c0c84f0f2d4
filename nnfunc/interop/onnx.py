"""Models as ONNX files, by jax2onnx, run and quantized by ONNX Runtime."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from nnfunc import check
from nnfunc.interop.program import Program, explain, model_name
from nnfunc.interop.simple_primitives import primitives

QUANTIZATIONS = ("dynamic", "weights")
LARGEST = 2**31 - 1
"""The most bytes of a file of one piece: it is a message of protobuf."""


def write(program: Program, file: Path) -> list[Path]:
    """Write the program to a file; the paths of the files."""
    jax2onnx, onnx = _package("jax2onnx"), _package("onnx")
    size = sum(weight.nbytes for weight in program.weights.values())
    if size > LARGEST - 2**20:
        expected = "the weights of a model for ONNX should have at most 2 GB"
        check.fail("export", expected=expected, actual=f"{size / 1e9:.3g} GB", hint="Export to stablehlo.")
    with explain(program.model, "onnx"):
        simple = jax.make_jaxpr(program.simple_call())(*program.input_specs)
    outputs = [spec["name"] for spec in program.output_specs]
    names = {"input_names": list(program.inputs), "output_names": outputs, "model_name": model_name(program.model)}
    try:
        with _quiet("onnx_ir", "jax2onnx", "root"):
            model: Any = jax2onnx.to_onnx(jaxpr_as_fun(simple), program.input_specs, **names)
    except Exception as error:  # jax2onnx raises exceptions of many classes
        _explain_primitive(program, simple.jaxpr, error)
    _simplify_products(onnx, model.graph)
    onnx.helper.set_model_props(model, program.metadata_texts)
    model.producer_name, model.producer_version = "nnfunc", program.metadata["nnfunc"]
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())
    return [file]


def open_file(file: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The function of a file, by ONNX Runtime: inputs by name -> outputs by name."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: warnings are about unused initializers
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def quantize(file: Path, target: Path, method: str) -> None:
    """Write the model of a file with weights of 8 bits.

    method: "weights" computes in float32, in products of matrices with constants; "dynamic" computes these and
        convolutions in integers, for which it quantizes each input by its range.
    """
    check.choice("export", QUANTIZATIONS, quantize=method)
    quantization = _package("onnxruntime.quantization")
    onnx = _package("onnx")
    with _quiet("root", "onnxruntime.quantization"):
        if method == "dynamic":
            quantization.quantize_dynamic(file, target, weight_type=quantization.QuantType.QUInt8)
        else:
            model = _package("onnxruntime.quantization.onnx_model").ONNXModel(onnx.load(file))
            model.replace_gemm_with_matmul()
            nbits = _package("onnxruntime.quantization.matmul_nbits_quantizer").MatMulNBitsQuantizer
            quantizer = nbits(model.model, bits=8, block_size=32, is_symmetric=True)
            quantizer.process()
            onnx.save(quantizer.model.model, target)
    small = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    if not any(weight.data_type in small for weight in onnx.load(target).graph.initializer):
        problem = "the model has no product of matrices with constant weights, so nothing can be quantized."
        check.fail("export", problem, hint="Leave quantize out.")


def _simplify_products(onnx: Any, graph: Any) -> None:
    """Products that jax2onnx writes as Gemm without its bias, as MatMul: ONNX Runtime fuses and quantizes these."""
    for node in graph.node:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        for inner in (value for value in values.values() if isinstance(value, onnx.GraphProto)):
            _simplify_products(onnx, inner)
        is_product = values.get("alpha", 1) == 1 and values.get("beta", 1) == 0
        if node.op_type == "Gemm" and is_product and not (values.get("transA") or values.get("transB")):
            node.op_type = "MatMul"
            del node.input[2:], node.attribute[:]
    read = {name for node in graph.node for name in node.input}
    biases = [value for value in graph.initializer if value.name.startswith("dot_bias") and value.name not in read]
    for value in biases:
        graph.initializer.remove(value)


def _explain_primitive(program: Program, jaxpr: Any, error: Exception) -> None:
    """Raise the error of jax2onnx with the primitive and the layer, where its message names a primitive."""
    match, layers = re.search(r"primitive '(\w+)'", str(error)), primitives(jaxpr)
    with explain(program.model, "onnx"):
        if match is None or match[1] not in layers:
            raise error
        layer = f", which is in the layer at {layers[match[1]]}" if layers[match[1]] else ""
        problem = (
            f"{model_name(program.model)} cannot be exported to onnx: jax2onnx has no primitive {match[1]}{layer}."
        )
        check.fail("export", problem, hint="Export it to stablehlo.")


def _package(name: str) -> Any:
    return check.package("export", name, "nnfunc[onnx]")


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """A context in which loggers show errors only."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
