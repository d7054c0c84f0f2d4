"""What is exported: a model with its parameters as one function of arrays, and its description."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from nnfunc import paths, tuning
from nnfunc.base import Array, Model, Params, PyTree
from nnfunc.errors import InvalidValueError, NnfuncError
from nnfunc.interop.simple_primitives import evaluate

Spec = dict[str, Any]
"""A tensor of a program: {"name": ..., "shape": ["batch", ...], "dtype": ...}."""


@dataclass(frozen=True, eq=False)
class Program:
    """A model as a function (weights, inputs) -> outputs of lists of arrays.

    model, params, state: of the model.
    transform: what is applied to x before the model, or None.
    example: the x of a batch.
    metadata: what travels with the program, as JSON.
    batch: the size of a batch, None for any size.
    """

    model: Model
    params: Params
    state: PyTree
    transform: Callable[[PyTree], PyTree] | None
    example: PyTree
    metadata: Mapping[str, Any]
    batch: int | None = None

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Parameters and state by path. A path of both has state/ before that of the state."""
        params, state = paths.flatten(self.params), paths.flatten(self.state)
        names = {f"state/{path}" if path in params else path: leaf for path, leaf in state.items()}
        leaves = params | names  # device_get would sort them
        return dict(zip(leaves, map(np.asarray, jax.device_get(list(leaves.values()))), strict=True))

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """The arrays of the example by name; x for an example that is one array."""
        arrays = {name or "x": np.asarray(leaf) for name, leaf in paths.flatten(self.example).items()}
        return {name: x.astype(jax.dtypes.canonicalize_dtype(x.dtype)) for name, x in arrays.items()}

    @cached_property
    def input_specs(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes of the inputs; a batch of any size is the symbol batch."""
        batch = export.symbolic_shape("batch")[0] if self.batch is None else self.batch
        return [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in self.inputs.values()]

    def call(self, weights: Sequence[Any], inputs: Sequence[Any]) -> list[Array]:
        """The outputs, traced for any platform. weights, inputs: in the order of the fields of these names."""
        with tuning.portable():
            return jax.tree.leaves(self.output(weights, inputs))

    def simple_call(self, *, unroll: bool = False) -> Callable[..., list[Array]]:
        """The function inputs -> outputs with constant weights and few primitives. unroll: as in `evaluate`."""
        weights = list(self.weights.values())
        traced = jax.make_jaxpr(lambda *inputs: self.call(weights, list(inputs)))(*self.input_specs)
        return lambda *inputs: evaluate(traced.jaxpr, traced.consts, inputs, unroll=unroll)

    def output(self, weights: Sequence[Any], inputs: Sequence[Any]) -> PyTree:
        """What the model returns. weights, inputs: as for `call`."""
        count = len(jax.tree.leaves(self.params))
        params = jax.tree.unflatten(jax.tree.structure(self.params), weights[:count])
        state = jax.tree.unflatten(jax.tree.structure(self.state), weights[count:])
        x = jax.tree.unflatten(jax.tree.structure(self.example), inputs)
        x = x if self.transform is None else self.transform(x)
        return self.model.apply(params, x, state=state)

    @cached_property
    def output_specs(self) -> list[Spec]:
        """The outputs with names that no input has; y for an output that is one array."""
        weights = [jax.ShapeDtypeStruct(w.shape, w.dtype) for w in self.weights.values()]
        with explain(self.model, "another runtime"):
            outputs = jax.eval_shape(self.output, weights, self.input_specs)
        named = {name or "y": leaf for name, leaf in paths.flatten(outputs).items()}
        return tensor_specs({f"{name}_out" if name in self.inputs else name: leaf for name, leaf in named.items()})

    @cached_property
    def metadata_with_specs(self) -> dict[str, Any]:
        """The metadata with inputs and outputs."""
        inputs = dict(zip(self.inputs, self.input_specs, strict=True))
        return {**self.metadata, "inputs": tensor_specs(inputs), "outputs": self.output_specs}

    @property
    def metadata_texts(self) -> dict[str, str]:
        """The metadata with inputs and outputs, each value as text."""
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.metadata_with_specs.items()}

    def reference(self, precision: str | None = None) -> list[np.ndarray]:
        """The outputs for the example as the model computes them in this process.

        precision: of matrix products, None for that of the process.
        """
        arrays = list(self.weights.values()), list(self.inputs.values())
        with jax.default_matmul_precision(precision):
            return jax.tree.leaves(jax.device_get(self._output(*arrays)))

    @cached_property
    def _output(self) -> Any:
        return jax.jit(self.output)


def tensor_specs(tensors: Mapping[str, Any]) -> list[Spec]:
    """The specs of named arrays; a size that is no integer is written as its expression."""

    def size(value: Any) -> int | str:
        return value if isinstance(value, int) else str(value)

    return [
        {"name": name, "shape": [size(n) for n in leaf.shape], "dtype": jnp.dtype(leaf.dtype).name}
        for name, leaf in tensors.items()
    ]


def model_name(model: Model) -> str:
    """The name of the factory that made the model."""
    factory = model.factory_call[0]
    return model.name if factory is Model else factory.__name__


@contextmanager
def explain(model: Model, to: str) -> Iterator[None]:
    """A context in which the exception of a conversion becomes an error that names the model and the layer.

    model: what is converted.
    to: the name of the format.
    """
    try:
        yield
    except (NnfuncError, MemoryError, OSError, ImportError):
        raise
    except Exception as error:  # what a converter raises is of any class
        layer = error.__dict__.get("nnfunc_path")
        where = f"its layer at {layer}" if layer else "its conversion"
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason").rstrip(".")
        is_symbolic = type(error).__name__ == "InconclusiveDimensionOperation"
        hint = "The size of a batch is a symbol in an export: a model may not branch on it." if is_symbolic else ""
        problem = f"{model_name(model)} cannot be exported to {to}: {where} raises {type(error).__name__}: {reason}."
        raise InvalidValueError(problem, where="export", hint=hint) from error
