"""The contract: a model is a pair of pure functions, `init(key) -> params`, `apply(params, x) -> y`.

`Model` holds the pair. `Context` holds the inputs of a layer besides params and x, `Out` its outputs besides
y; only layers that keep state, and combinators, see these two. Layers import the names around the contract from here,
too: those of arrays, keys, mesh axes and signatures.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from types import FunctionType
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from nnfunc import check, device_memory
from nnfunc.array_types import (
    Array,
    DType,
    Initializer,
    Key,
    Params,
    PyTree,
    Scalar,
    Schedule,
    Shape,
    canonicalize,
    canonicalize_arguments,
    cast_floating,
    match_dtype,
    shape_struct,
    shape_text,
    to_device,
    wide_dtype,
    widen,
)
from nnfunc.calls import describe_call, explain_call, explain_method, factory_hint
from nnfunc.context import Context, Nudge, Out, Patch, PatchFunction, Remat, Watch
from nnfunc.display import html_text
from nnfunc.errors import MissingKeyError
from nnfunc.mesh_axes import DATA_AXIS, batch_parts, divide_examples, is_partitioned, vary_like, varying_axes
from nnfunc.model_state import (
    check_new_state,
    check_unchanged_state,
    match_state,
    reads_values,
    runs_eagerly,
    trace_state,
)
from nnfunc.pickling import by_name, call_by_names, unpacked_pair
from nnfunc.random_keys import draws_same_under_vmap, fold, fold_in, indexed_keys, vmap_keys
from nnfunc.signatures import (
    factory_name,
    function_name,
    is_required,
    named_parameters,
    parameter_names,
    required_parameters,
    unpack_parts,
)


class Model:
    """A pair of pure functions over a pytree of parameters; it unpacks as `init, apply`.

    init(key) -> params: nested dicts of trainable arrays, nothing else.
    apply(params, x, *, key=None, state=None) -> y: deterministic without a key; a model that keeps
    state, such as running statistics, asks for it.
    apply_train(params, state, x, *, key=None) -> (y, new state): the training mode, for loops by hand.
    forward(params, x, ctx) -> (y, Out): the inner protocol, for combinators and trainers.
    init_state(key=None) -> state: nested dicts, `{}` for a model without state. A state that begins at random,
    such as a codebook, needs the key; others are the same with any key.

    A layer is written in one of two forms: `Model(init, apply)`, or, where it keeps state or reports values,
    `Model(init, forward=forward, init_state=init_state)`.

    init, apply, forward, init_state: the functions above. apply may omit `key` and `state`; it can read the state,
        but only forward can change it. init_state may omit `key`; one without a default is required.
    name: the name of an unnamed layer in a `serial`; by default that of the factory that defined its function.
    full_precision: whether `precision` leaves its parameters in float32, as norms need. A forward casts its
        parameters itself, with `ctx.cast`, and names here those that it does not, because some may be cast before
        they are gathered from other devices.
    parts: the models inside, by the paths of their parameters; `*` is a stacked axis.
    A model pickles as the call of the factory that made it, so the arguments of that call have to pickle too.
    Raises: TypeError unless either apply or forward is given.

    >>> double = Model(lambda key: {}, lambda params, x: 2 * x)
    >>> init, apply = double
    >>> float(apply(init(jax.random.key(0)), jnp.array(3.0)))
    6.0
    """

    __slots__ = (
        *("__weakref__", "_checked", "_state_shapes"),
        *("factory_call", "forward", "full_precision", "init", "init_state", "name", "parts"),
    )

    def __init__(
        self,
        init: Callable[[Key], Params],
        apply: Callable[..., PyTree] | None = None,
        *,
        forward: Callable[[Params, PyTree, Context], tuple[PyTree, Out]] | None = None,
        init_state: Callable[..., PyTree] | None = None,
        name: str | None = None,
        full_precision: bool | Sequence[str] = False,
        parts: Mapping[str, "Model"] | None = None,
    ):
        self.parts: Mapping[str, Model] = parts or {}
        self.name = name or factory_name(apply or forward)
        self.full_precision = full_precision
        self.init = _init_with_key(init, self.name)
        if apply is not None and forward is None:
            self.forward = _forward_of(apply, bool(full_precision))
        elif forward is not None and apply is None:
            self.forward = _checked_forward(forward, self.name)
        else:
            check.fail("Model", "give either apply or forward.", exc_type=TypeError)
        self.init_state = _no_state if init_state is None else _state_with_key(init_state, self.name)
        options = {"forward": forward, "init_state": init_state, "name": name, "full_precision": full_precision}
        self.factory_call: tuple[Any, tuple[Any, ...], dict[str, Any]] = (Model, (init, apply), options)
        self._checked: set[Any] = set()
        self._state_shapes: PyTree = None

    @explain_method
    def apply(self, params: Params, x: PyTree, *, key: Key | None = None, state: PyTree | None = None) -> PyTree:
        """y = the model of x, which changes no state.

        params: as `init` makes them.
        x: an array, or any pytree that the model takes.
        key: switches dropout on; None by default, which is deterministic.
        state: what the model keeps, such as running statistics; required where `init_state()` is not empty.
        Raises: InvalidValueError without a state that is needed; what the layers raise, before arithmetic.

        >>> model = nf.serial(nf.linear(2, 3), nf.batch_norm(3))
        >>> params, state = model.init(jax.random.key(0)), model.init_state()
        >>> model.apply(params, jnp.ones((4, 2)), state=state).shape
        (4, 3)
        """
        where = f"{self.name}.apply"
        return self._run(where, params, resolve_state(self, state, where), x, key, "apply", train=False)[0]

    @explain_method
    def apply_train(self, params: Params, state: PyTree, x: PyTree, *, key: Key | None = None) -> tuple[PyTree, PyTree]:
        """(y, new state) of x in training: running statistics are those of the batch, and are updated.

        For a training loop written by hand. Every model returns this pair; without state it is (y, {}).
        With the key `fold_in(key, step)` it computes what `nf.trainer` computes in that step.

        params: as `init` makes them.
        state: what `init_state()` or the last call returned.
        x: an array, or any pytree that the model takes.
        key: switches dropout on; None is deterministic.
        Raises: MissingKeyError when a layer cannot work without a key; InvalidValueError when the state does not
        have the structure and shapes of `init_state()`; what the layers raise, before arithmetic.

        >>> model = nf.serial(nf.linear(2, 3), nf.batch_norm(3), nf.dropout(0.1))
        >>> params, state = model.init(jax.random.key(0)), model.init_state()
        >>> y, state = model.apply_train(params, state, jnp.ones((4, 2)), key=jax.random.key(1))
        >>> y.shape, sorted(state["batch_norm"])
        ((4, 3), ['mean', 'var'])
        """
        where = f"{self.name}.apply_train"
        _check_state(self, state, where, "then pass on the state that apply_train returns")
        y, out = self._run(where, params, state, x, key, "predict", train=True)
        return y, out.state

    @property
    def state_shapes(self) -> PyTree:
        """The shapes and dtypes of the state, without its arrays."""
        if self._state_shapes is None:
            shapes = {} if self.init_state is _no_state else jax.eval_shape(lambda: self.init_state(jax.random.key(0)))
            self._state_shapes = shapes
        return self._state_shapes

    @property
    def draws_state(self) -> bool:
        """Whether the state begins at random, so that init_state needs a key."""
        try:
            jax.eval_shape(self.init_state)
        except MissingKeyError:
            return True
        return False

    def _run(
        self, where: str, params: Params, state: PyTree, x: PyTree, key: Key | None, name: str, *, train: bool
    ) -> tuple[PyTree, Out]:
        """forward of canonical inputs, with shapes checked before arithmetic. name: what the key is folded with."""
        if key is not None:
            check.key(where, key)
        params, x, state = canonicalize((params, x, state), where)
        ctx = Context(key=fold(key, name), state=state, train=train)
        leaves, treedef = jax.tree.flatten((params, x, ctx))
        # what is no array is a setting, of x: it stays what it is
        arrays = [hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves]
        signature = (
            treedef,
            *((leaf.shape, leaf.dtype) if a else type(leaf) for a, leaf in zip(arrays, leaves, strict=True)),
        )
        # Once, so that errors come before arithmetic, in eager `jax.grad` too. Where nothing may be traced, they
        # come when their layer is reached: a layer that reads its values has none while shapes are followed.
        if signature not in self._checked and not jax.config.jax_disable_jit:  # pyright: ignore

            def forward(traced: list[Any]) -> PyTree:
                values = iter(traced)
                return self._forward(
                    *treedef.unflatten(next(values) if a else leaf for a, leaf in zip(arrays, leaves, strict=True))
                )

            try:
                jax.eval_shape(forward, [leaf for a, leaf in zip(arrays, leaves, strict=True) if a])
            except (TypeError, AttributeError, IndexError) as error:
                if not reads_values(error):
                    raise
            self._checked.add(signature)
        return self._forward(params, x, ctx)

    def _forward(self, params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        y, out = self.forward(params, x, ctx)
        return y, out._replace(state=match_state(out.state, ctx.state)) if ctx.train else out

    def replace(self, **functions: Any) -> "Model":
        """The model with another init, forward, init_state, name or full_precision.

        functions: those that differ. Its parts stay.

        >>> nf.linear(2, 3).replace(name="head")
        <nnfunc model head>
        """
        names = ("init", "forward", "init_state", "name", "full_precision", "parts")
        return Model(**({name: getattr(self, name) for name in names} | functions))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, with the call to write instead: a model has no parameters of its own."""
        hint = "Call model.apply(params, x); in an objective predict(x), in a flow of nf.wire net.name(x)."
        check.fail(repr(self), "it is a pair of functions, and is not called itself.", hint=hint, exc_type=TypeError)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __reduce__(self) -> tuple[Any, ...]:
        factory, args, kwargs = self.factory_call
        return call_by_names, (factory, by_name(args), by_name(kwargs))

    def __repr__(self) -> str:
        factory, args, kwargs = self.factory_call
        if factory is Model:
            return f"<nnfunc model {self.name}>"
        return f"<nnfunc model {describe_call(factory, args, kwargs)}>"

    def _repr_html_(self) -> str:
        return html_text(repr(self))


def resolve_state(model: Model, state: PyTree | None, where: str) -> PyTree:
    """The state to run the model with: {} of a model without state; others cannot do without one.

    Raises: InvalidValueError when state is None and `init_state()` is not empty, or has other shapes.
    """
    if state is not None:
        _check_state(model, state, where, "or pass the state of the training")
    elif jax.tree.leaves(model.state_shapes):
        expected = f"state= should be given, because {model.name} keeps state such as running statistics"
        call = "model.init_state(key)" if model.draws_state else "model.init_state()"
        hint = f"Pass the state of the training, or {call} before it."
        check.fail(where, expected=expected, actual="none", hint=hint)
    return {} if state is None else state


def _check_state(model: Model, state: PyTree, where: str, then: str) -> None:
    expected, actual = (jax.tree.map(np.shape, tree) for tree in (model.state_shapes, state))
    if expected != actual:
        hint = f"Begin with state = model.init_state(), {then}."
        check.fail(where, expected=f"state should have the shapes {expected}", actual=actual, hint=hint)


Layer = Model | tuple[Callable[..., Any], Callable[..., Any]] | Callable[..., Any]
"""What every combinator takes: a Model, a bare (init, apply) pair, or a function x -> y."""


def as_model(layer: Layer, *, where: str = "as_model") -> Model:
    """The Model of a layer.

    layer: a Model, a bare (init, apply) pair or a plain function x -> y; one with several required parameters takes
        them from a tuple x.
    where: the name for the error.
    Raises: TypeError when it is none of these.

    >>> as_model(jax.nn.relu).init(jax.random.key(0))
    {}
    """
    if isinstance(layer, Model):
        return layer
    if isinstance(layer, tuple) and len(layer) == 2 and all(map(callable, layer)):
        unpacked = unpacked_pair(layer)
        return Model(layer[0], layer[1]) if unpacked is None else unpacked
    if callable(layer):
        name = function_name(layer)
        if hint := factory_hint(layer, Model):
            expected, actual = "a layer should be a Model", f"the function {name}"
            check.fail(where, expected=expected, actual=actual, hint=hint, exc_type=TypeError)
        function = unpack_parts(layer, name)
        return Model(lambda key: {}, forward=lambda params, x, ctx: (function(x), Out(ctx.state)), name=name)
    expected = "a layer should be a Model, a pair (init, apply) or a function x -> y"
    hint = "For a list of layers: serial(*layers)." if isinstance(layer, list) else ""
    check.fail(where, expected=expected, actual=check.describe(layer), hint=hint, exc_type=TypeError)


_initialising: ContextVar[bool] = ContextVar("initialising", default=False)


def _init_with_key(init: Callable[[Key], Params], name: str) -> Callable[[Key], Params]:
    fits_in_memory = False

    def checked(key: Key) -> Params:
        nonlocal fits_in_memory
        check.key(f"{name}.init", key)
        if fits_in_memory or _initialising.get() or check.is_traced(key):
            return init(key)
        token = _initialising.set(True)  # the children of the model are not measured alone
        try:
            with suppress(jax.errors.ConcretizationTypeError):  # it draws with NumPy, so eval_shape fails
                device_memory.check_params(f"{name}.init", jax.eval_shape(init, key))
            fits_in_memory = True
            return init(key)
        finally:
            _initialising.reset(token)

    return explain_call(checked, f"{name}.init")


def _no_state(key: Key | None = None) -> PyTree:
    return {}


def _state_with_key(init_state: Callable[..., PyTree], name: str) -> Callable[..., PyTree]:
    """init_state as a function of the key, which it may not have, have, or require."""
    if "key" not in named_parameters(init_state):
        return lambda key=None: init_state()
    required = is_required(init_state, "key")

    def draw(key: Key | None = None) -> PyTree:
        if required and key is None:
            hint = "Call model.init_state(key)."
            check.fail(name, "its state begins at random, which needs a key.", hint=hint, exc_type=MissingKeyError)
        if key is not None:
            check.key(f"{name}.init_state", key)
        return init_state(key=key)

    return draw


def _checked_forward(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The forward of a layer, whose result is checked to be (y, Out), in training with the state that it got."""

    @functools.wraps(forward)
    def checked(params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        result = forward(params, x, ctx)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Out)):
            expected = "forward should return (y, nf.Out(state=..., taps=...))"
            check.fail(name, expected=expected, actual=check.describe(result), exc_type=TypeError)
        if ctx.train and jax.tree.leaves(ctx.state):
            check_new_state(name, result[1].state, ctx.state)
        return result

    return checked


def _forward_of(apply: Callable[..., PyTree], full_precision: bool) -> Callable[..., Any]:
    """The inner protocol of a layer written as a plain pair."""
    names, any_keyword = parameter_names(apply)
    passed = [name for name in ("key", "state") if name in names or (any_keyword and name == "key")]

    def forward(params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        params = params if full_precision else ctx.cast(params)
        try:
            y = apply(params, x, **{name: getattr(ctx, name) for name in passed})
        except KeyError as error:
            if not isinstance(params, dict) or error.args[0] in params:
                raise
            expected = f"its parameters should hold {error.args[0]!r}"
            actual = f"{sorted(params)}" if params else "none"
            check.fail(factory_name(apply), expected=expected, actual=actual, hint="Use those that its init returns.")
        return y, Out(state=ctx.state)

    return forward
