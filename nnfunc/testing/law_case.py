"""The case of a law: a model under test, and the values that several laws need."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax

from nnfunc.base import Context, Key, Model, Params, PyTree, as_model
from nnfunc.errors import MissingKeyError
from nnfunc.testing.comparing import floats_of, weighed


@dataclass(eq=False)
class Case:
    """A model under test, with the values that several laws need, each computed once.

    make, x, numbers, any_width, leading_axes, smooth, tolerance, order, at_once: as in `check_model`.
    init_key: its `key`, or None for the default.
    """

    make: Callable[..., Any]
    x: PyTree
    numbers: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    init_key: Key | None = None
    any_width: bool = False
    leading_axes: bool = True
    smooth: bool = True
    tolerance: float = 2e-5
    order: int = 2
    at_once: bool = False

    @cached_property
    def key(self) -> Key:
        return jax.random.key(0) if self.init_key is None else self.init_key

    @cached_property
    def model(self) -> Model:
        return as_model(self.make(**self.first), where="check_model: make")

    @property
    def first(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self.numbers.items()}

    @cached_property
    def params(self) -> Params:
        with jax.ensure_compile_time_eval():  # a law may ask for them first inside of a trace
            return jax.jit(self.model.init)(self.key)

    @cached_property
    def state(self) -> PyTree:
        with jax.ensure_compile_time_eval():
            return self.model.init_state(self.key)

    @cached_property
    def needs_key(self) -> bool:
        """Whether the model raises MissingKeyError without a key (law 2)."""
        try:
            jax.eval_shape(partial(self.model.apply, state=self.state), self.params, self.x)
        except MissingKeyError:
            return True
        return False

    @cached_property
    def reference(self) -> dict[str, Any]:
        """What `gradients` gives for the params and x of the case."""
        return jax.jit(self.gradients)(self.params, self.x)

    def evaluated(self, params: Params, x: PyTree, *, model: Model | None = None) -> PyTree:
        """y for params and x in evaluation mode, without a key where the model needs none."""
        model = model or self.model
        return model.apply(params, x, key=self.key if self.needs_key else None, state=model.init_state(self.key))

    def trained(self, params: Params, x: PyTree, *, model: Model | None = None) -> tuple[PyTree, PyTree]:
        """(y, new state) for params and x in training mode, with a key."""
        model = model or self.model
        ctx = Context(key=self.key, train=True, state=model.init_state(self.key))
        y, out = model.forward(params, x, ctx)
        return y, out.state

    def gradients(self, params: Params, x: PyTree, *, model: Model | None = None) -> PyTree:
        """(y, new state) and the gradients by params and by the floats of x, in training mode."""
        floats, join = floats_of(x)

        def loss(params, floats):
            y, state = self.trained(params, join(floats), model=model)
            return weighed(y), (y, state)

        grads, (y, state) = jax.grad(loss, (0, 1), has_aux=True)(params, floats)
        return {"y": y, "state": state, "gradients": grads}
