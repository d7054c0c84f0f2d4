"""Models as programs in NumPy: a page of Python, and the weights in one .safetensors file beside it."""

import inspect
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from nnfunc import activations, check
from nnfunc.base import Model
from nnfunc.data.batch_transforms import Normalise
from nnfunc.interop.numpy_templates import ACTIVATIONS, CONV, GPT, LINEAR, NORMS, PROGRAM
from nnfunc.interop.program import Program, Spec
from nnfunc.layers.feed_forward import GATES


def write(program: Program, file: Path) -> list[Path]:
    """Write the program and its weights; the paths of both."""
    from safetensors.numpy import save

    name, arguments = _factory(program.model)
    functions, constants = WRITERS[name](arguments)
    weights = program.weights | _preprocessing(program)
    if "preprocessing/mean" in weights:
        scaled = '    x = (np.asarray(x, np.float32) - W["preprocessing/mean"]) / W["preprocessing/std"]'
        functions = functions.replace("    x = np.asarray(x)", scaled)
    if names := program.metadata.get("names"):
        constants += f"NAMES = {tuple(names)!r}  # of the classes, in the order of the outputs\n"
    text = Template(PROGRAM).substitute(
        title=f"The forward pass of a model of nnfunc in NumPy: {name}.",
        name=file.stem,
        inputs=_shapes(program.metadata_with_specs["inputs"]),
        outputs=_shapes(program.metadata_with_specs["outputs"]),
        version=program.metadata["nnfunc"],
        imports="import math\n" if "math." in functions else "",
        constants=constants.rstrip(),
        functions=functions,
    )
    file.write_text(text, encoding="utf-8")
    weights_file = file.with_suffix(".safetensors")
    weights_file.write_bytes(save(weights, metadata=program.metadata_texts))
    return [file, weights_file]


def _preprocessing(program: Program) -> dict[str, np.ndarray]:
    """mean and std of the transform, for each value of the last axis."""
    transform = program.transform
    if transform is None:
        return {}
    if not isinstance(transform, Normalise):
        hint = "Leave transform out, and apply it before the program."
        check.fail("export", expected="transform should be a Normalise for numpy", actual=repr(transform), hint=hint)
    width = next(iter(program.inputs.values())).shape[-1]
    values = {"mean": np.asarray(transform.mean), "std": np.asarray(transform.std)}
    times = {name: width // len(value) if len(value) > 1 else 1 for name, value in values.items()}
    scaled = {name: np.tile(value * transform.scale, times[name]).astype(np.float32) for name, value in values.items()}
    return {f"preprocessing/{name}": value for name, value in scaled.items()}


def open_file(file: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The function of a program, which runs in a process of its own: inputs by name -> outputs by name."""

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "inputs.npy", Path(folder) / "outputs.npy"
            np.save(source, inputs["x"])
            command = [sys.executable, str(file), str(source), str(target)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                check.fail("export", f"the program failed: {last}.")
            return {"y": np.load(target)}

    return run


def _factory(model: Model) -> tuple[str, dict[str, Any]]:
    """The name of the model's factory, and its arguments with defaults."""
    factory, args, kwargs = model.factory_call
    if factory.__name__ == "remat_repeats":  # changes no value
        return _factory(args[0])
    if factory.__name__ not in WRITERS:
        expected = f"the model should be made by {', '.join(f'nf.{name}' for name in WRITERS)} for numpy"
        hint = "nnfunc merge makes a plain run of one with LoRA adapters." if "lora" in model.name else ""
        check.fail("export", expected=expected, actual=repr(model), hint=hint or "Export it to stablehlo or onnx.")
    bound = inspect.signature(factory).bind(*args, **kwargs)
    bound.apply_defaults()
    return factory.__name__, dict(bound.arguments)


def _mlp(arguments: dict[str, Any]) -> tuple[str, str]:
    """The functions and the constants of `nf.mlp`."""
    norm, hidden = arguments["norm"], len(arguments["widths"]) - 2
    lines = [
        "    for i in range(HIDDEN):",
        '        x = linear(f"hidden_{i}/linear", x)',
        *(['        x = norm(f"hidden_{i}/norm", x)'] if norm else []),
        "        x = act(x)",
        '    return linear("head", x)',
    ]
    parts = [LINEAR, NORMS[norm] if norm else "", _activation("mlp", arguments["activation"]), _forward(lines)]
    return _join(parts), f"HIDDEN = {hidden}  # layers\n"


def _cnn(arguments: dict[str, Any]) -> tuple[str, str]:
    """The functions and the constants of `nf.cnn`."""
    norm = arguments["norm"]
    lines = [
        "    for stage in range(1, STAGES + 1):",
        "        for i in range(1, CONVS + 1):",
        '            x = conv(f"stage_{stage}/conv_{i}", x)',
        *(['            x = norm(f"stage_{stage}/norm_{i}", x)'] if norm else []),
        "            x = act(x)",
        "        x = pool(x)",
        "    x = x.reshape(len(x), -1)" if arguments["head"] == "flatten" else "    x = x.mean((1, 2))",
        *(['    x = act(linear("hidden/linear", x))'] if arguments["hidden"] else []),
        '    return linear("head", x)',
    ]
    reduce = {"max": "max", "avg": "mean"}[arguments["pool"]]
    conv = Template(CONV).substitute(reduce=reduce)
    parts = [LINEAR, conv, NORMS[norm] if norm else "", _activation("cnn", arguments["activation"]), _forward(lines)]
    return _join(parts), f"STAGES, CONVS = {len(arguments['widths'])}, {arguments['convs']}\n"


def _gpt(arguments: dict[str, Any]) -> tuple[str, str]:
    """The functions and the constants of `nf.gpt`."""
    if arguments["mlp"] is not None:
        check.fail("export", "a gpt with another layer as its mlp has no NumPy program.", hint="Export it to onnx.")
    if arguments["output"] != "tokens":
        actual = repr(arguments["output"])
        check.fail("export", expected="output should be 'tokens' for numpy", actual=actual, hint="Export it to onnx.")
    activation = arguments["activation"]
    if activation in GATES:
        activation = GATES[activation].__name__
        up = 'y = linear(w, "mlp/up", x) * act(linear(w, "mlp/gate", x))'
    else:
        up = 'y = act(linear(w, "mlp/up", x))'
    head = 'W["tokens/weight"].T' if arguments["tied"] else 'W["head/weight"]'
    sizes = {name: arguments[name] for name in ("vocab_size", "block_size")}
    text = Template(GPT).substitute(up=up, head=head, **sizes)
    constants = f"LAYERS, HEADS, EPS = {arguments['layers']}, {arguments['heads']}, {float(arguments['eps'])!r}\n"
    return _join([_activation("gpt", activation), text]), constants


WRITERS = {"mlp": _mlp, "cnn": _cnn, "gpt": _gpt}
"""Factory -> the function of its arguments that gives the functions and constants of the program."""


def _forward(lines: list[str]) -> str:
    return "\n".join(["def forward(x):", '    """The logits of a batch."""', "    x = np.asarray(x)", *lines])


def _join(parts: list[str]) -> str:
    return "\n\n\n".join(part.strip() for part in parts if part)


def _activation(where: str, activation: Any) -> str:
    """The function act of an activation, by its name or the function of `nf.activations`."""
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", repr(activation))
    name = activations.by_name(name).__name__ if isinstance(activation, str) else name
    if name not in ACTIVATIONS or not (isinstance(activation, str) or getattr(activations, name) is activation):
        expected = f"the activation of {where} should be one of {', '.join(ACTIVATIONS)} for numpy"
        check.fail("export", expected=expected, actual=name, hint="Export it to stablehlo or onnx.")
    return f'def act(x):\n    """The activation {name}."""\n    return {ACTIVATIONS[name]}'


def _shapes(specs: list[Spec]) -> str:
    return ", ".join(f"{spec['name']} {spec['dtype']}[{', '.join(map(str, spec['shape']))}]" for spec in specs)
