"""The contract: a model is a pair of pure functions, `init(key) -> params`, `apply(params, x) -> y`.

`Model` holds the pair. `Context` holds the inputs of a layer besides params and x, `Out` its outputs besides
y; only layers that keep state, and combinators, see these two.
"""

import functools
import importlib
import inspect
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, device_memory
from nnfunc.calls import describe_call, explain_call, explain_method, factory_hint
from nnfunc.display import html_text
from nnfunc.errors import MissingKeyError, NnfuncError

Array = jax.Array
Key = jax.Array
PyTree = Any
Params = Any
DType = Any
Shape = tuple[int, ...]
Scalar = float | jax.Array
"""A number that may be traced, and so swept: never branch on it in Python."""
P = ParamSpec("P")
R = TypeVar("R")
Schedule = Callable[[Any], Array]
"""step (0-based) -> value."""


class Initializer(Protocol):
    """(key, shape, dtype) -> array."""

    def __call__(self, key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array: ...


class Out(NamedTuple):
    """The outputs of a layer besides y.

    state: the new state of the layer, nested dicts; {} without one. taps: the captured values by path.
    """

    state: PyTree = {}
    taps: dict[str, PyTree] = {}


@dataclass(eq=False)
class Watch:
    """A record of one traced call, written in Python while it is traced.

    paths: the path of every value, in the order of computation, and whether the value exists only for a
    pattern that ends with its name; calls: one entry for each layer call,
    (path, child, params, x, ctx) as shapes; repeats: the path of every `repeat`; hidden: the path of every
    child that was called inside a transformation of its flow, where no value may leave the trace.
    """

    paths: dict[str, bool] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)
    repeats: list[tuple[str, ...]] = field(default_factory=list)
    hidden: dict[str, None] = field(default_factory=dict)

    def is_hidden(self, path: str) -> bool:
        """Whether the value at this path was computed inside a transformation of a flow."""
        return any(path == one or path.startswith(f"{one}/") for one in self.hidden)

    def add(self, other: "Watch") -> None:
        """Take over the record of a part of the same call."""
        self.paths |= other.paths
        self.calls.extend(other.calls)
        self.repeats.extend(other.repeats)
        self.hidden |= other.hidden


class Nudge(NamedTuple):
    """A patch that is added to the value instead of replacing it. Its gradient at 0 is that of the value.

    delta: an array that broadcasts to the value, such as one vector for all positions, or a pytree of them where the
    value is one.

    >>> model = nf.serial(act=jax.nn.relu, double=lambda x: 2 * x)
    >>> nudged = lambda delta: nf.patch(model, {"act": nf.Nudge(delta)}).apply({}, jnp.array(1.0))
    >>> float(jax.grad(nudged)(0.0))
    2.0
    """

    delta: PyTree


@jax.tree_util.register_static
@dataclass(frozen=True)
class PatchFunction:
    """A patch that is a function of the value, and of the layer's index if it has a parameter named layer."""

    function: Callable[..., PyTree]

    def __call__(self, value: PyTree, layer: tuple[Array, ...]) -> PyTree:
        if "layer" not in named_parameters(self.function):
            return self.function(value)
        return self.function(value, layer=layer[0] if len(layer) == 1 else layer or None)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["path"])
@dataclass(frozen=True)
class Patch:
    """The patch of one path: a value, a Nudge or a PatchFunction."""

    path: str
    value: PyTree


class Remat(NamedTuple):
    """What is stored inside `remat`. policy: of `jax.checkpoint`. names: as in `Context`, None for no change."""

    policy: Callable[..., Any] | None
    names: tuple[str, ...] | None


class Partition(Protocol):
    """How the values inside a model are divided over devices; `nnfunc.distributed` makes it.

    gathers: whether parameters are divided over the devices of the batch. gather(path, params): those of the layer at
    this path, of a `repeat` one layer at a time, as it computes with them. between(x): what the blocks of a repeat hand
    on, divided. enter(name, x), leave(name, y): the input and the output of a layer, by the name of its factory.
    """

    gathers: bool

    def gather(self, path: tuple[str, ...], params: Params) -> Params: ...

    def between(self, x: PyTree) -> PyTree: ...

    def enter(self, name: str, x: PyTree) -> PyTree: ...

    def leave(self, name: str, y: PyTree) -> PyTree: ...


@dataclass(frozen=True)
class Context:
    """The inputs of a layer besides params and x: arrays (key, state, patch, layer) and static settings.

    key: the random key of the layer, None without randomness. train: whether running statistics are updated.
    state: the state of the layer. path: the names that lead to it. capture: patterns of the values to report.
    patch: in their order, values that replace computed ones, a Nudge that is added to them, or a function of them.
    layer: the index of the layer in each surrounding `repeat` or `ensemble`. sizes: their numbers of layers.
    compute: the dtype of layers without full precision. cache: while a sequence is generated, the number of
    positions that the state of a layer holds: with an empty state x is the start of the sequence, later its
    continuation; None otherwise. remat: how `repeat` recomputes its blocks in the backward pass, None for not.
    names: inside `remat` with a policy, patterns of the values to store, () to name each value after its layer;
    None otherwise. partition: how values are divided over devices, None for not. watch: the record of this traced
    call, None for none.

    It is a pytree, so that transformations take it: `jax.checkpoint(model.forward)(params, x, ctx)`.
    """

    key: Key | None = None
    state: PyTree = field(default_factory=dict)
    patch: tuple[Patch, ...] = ()
    layer: tuple[Array, ...] = ()
    train: bool = False
    path: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    capture: tuple[str, ...] = ()
    compute: DType | None = None
    cache: int | None = None
    remat: Remat | None = None
    names: tuple[str, ...] | None = None
    partition: "Partition | None" = None
    watch: Watch | None = None

    def enter(self, name: str, *, call: int = 0) -> "Context":
        """The context of the child `name`, with a key that belongs to its name (law 3).

        The second call of a child has the path `name@1` and another key, the third `name@2`.
        """
        path = (*self.path, f"{name}@{call}" if call else name)
        return replace(self, path=path, state=self.state.get(name, {}), key=fold(self.key, name, call))

    def require_key(self, layer: str) -> Key:
        """The key. layer: the name for the error. Raises: MissingKeyError without one, with the right call."""
        if self.key is None:
            call = "apply_train(params, state, x, key=key)" if self.train else "apply(params, x, key=key)"
            check.fail(layer, "it needs a random key.", hint=f"Call model.{call}.", exc_type=MissingKeyError)
        return self.key

    def cast(self, tree: PyTree) -> PyTree:
        """The floating-point arrays of tree in the dtype to compute in."""
        return tree if self.compute is None else cast_floating(tree, self.compute)


jax.tree_util.register_dataclass(
    Context,
    data_fields=["key", "state", "patch", "layer"],
    meta_fields=["train", "path", "sizes", "capture", "compute", "cache", "remat", "names", "partition", "watch"],
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

    init, apply, forward, init_state: the functions above. apply may omit `key` and `state`; it can read the
    state, but only forward can change it. init_state may omit `key`; one without a default is required.
    name: the name of an unnamed layer in a `serial`; by default that of the factory that defined its function.
    full_precision: with apply, whether `precision` leaves its parameters in float32, as norms need; a forward
    casts its parameters itself, with `ctx.cast`. parts: the models inside, by the paths of their parameters; `*` is a
    stacked axis.
    A model pickles as the call of the factory that made it, so the arguments of that call have to pickle too.
    Raises: TypeError unless either apply or forward is given.

    >>> double = Model(lambda key: {}, lambda params, x: 2 * x)
    >>> init, apply = double
    >>> float(apply(init(jax.random.key(0)), jnp.array(3.0)))
    6.0
    """

    __slots__ = (
        *("__weakref__", "_checked", "_state_shapes"),
        *("factory_call", "forward", "init", "init_state", "name", "parts"),
    )

    def __init__(
        self,
        init: Callable[[Key], Params],
        apply: Callable[..., PyTree] | None = None,
        *,
        forward: Callable[[Params, PyTree, Context], tuple[PyTree, Out]] | None = None,
        init_state: Callable[..., PyTree] | None = None,
        name: str | None = None,
        full_precision: bool = False,
        parts: Mapping[str, "Model"] | None = None,
    ):
        self.parts: Mapping[str, Model] = parts or {}
        self.name = name or factory_name(apply or forward)
        self.init = _init_with_key(init, self.name)
        if apply is not None and forward is None:
            self.forward = _forward_of(apply, full_precision)
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

        params: as `init` makes them. x: an array, or any pytree that the model takes.
        key: switches dropout on; None by default, which is deterministic. state: what the model keeps, such
        as running statistics; required where `init_state()` is not empty.
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

        params: as `init` makes them. state: what `init_state()` or the last call returned.
        x: an array, or any pytree that the model takes. key: switches dropout on; None is deterministic.
        Raises: MissingKeyError when a layer cannot work without a key; InvalidValueError when the state
        does not have the structure and shapes of `init_state()`; what the layers raise, before arithmetic.

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
        """The model with another init, forward, init_state or name.

        functions: those that differ. Its parts stay.

        >>> nf.linear(2, 3).replace(name="head")
        <nnfunc model head>
        """
        fields = {"init": self.init, "forward": self.forward, "init_state": self.init_state, "name": self.name}
        return Model(**(fields | functions), parts=self.parts)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, with the call to write instead: a model has no parameters of its own."""
        hint = "Call model.apply(params, x); in an objective predict(x), in a flow of nf.wire net.name(x)."
        check.fail(repr(self), "it is a pair of functions, and is not called itself.", hint=hint, exc_type=TypeError)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.apply))

    def __reduce__(self) -> tuple[Any, ...]:
        factory, args, kwargs = self.factory_call
        return _remake, (factory, _by_name(args), _by_name(kwargs))

    def __repr__(self) -> str:
        factory, args, kwargs = self.factory_call
        if factory is Model:
            return f"<nnfunc model {self.name}>"
        return f"<nnfunc model {describe_call(factory, args, kwargs)}>"

    def _repr_html_(self) -> str:
        return html_text(repr(self))


class _Name(NamedTuple):
    """A function by its module and name, as `jax.nn.relu`, which does not pickle itself."""

    module: str
    name: str


class _NamedPartial(NamedTuple):
    """A functools.partial whose function and arguments are by name."""

    function: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]


class _Call(NamedTuple):
    """A function that a factory returned, such as `nf.initializers.normal(0.02)`, as this call."""

    factory: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]


def unpacked_model(pair: tuple[Any, ...]) -> Model | None:
    """The Model whose `init, apply` the pair is, or None."""
    owner = getattr(pair[1], "__self__", None) if len(pair) == 2 else None
    return owner if isinstance(owner, Model) and pair[0] is owner.init else None


def _by_name(value: Any) -> Any:
    """The arguments of a call, with the functions that stand in a module as names."""
    if isinstance(value, dict):
        return {name: _by_name(one) for name, one in value.items()}
    if isinstance(value, tuple) and (model := unpacked_model(value)) is not None:
        return model
    if type(value) in (tuple, list):
        return type(value)(map(_by_name, value))
    if type(value) is functools.partial:
        return _NamedPartial(_by_name(value.func), _by_name(value.args), _by_name(value.keywords))
    if isinstance(value, FunctionType) and hasattr(value, "factory_call"):
        return _Call(*map(_by_name, value.factory_call))  # pyright: ignore
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    is_public = callable(value) and getattr(sys.modules.get(str(module)), str(name), None) is value
    return _Name(str(module), str(name)) if is_public else value


def _from_names(value: Any) -> Any:
    """The inverse of `_by_name`."""
    if isinstance(value, _Name):
        return getattr(importlib.import_module(value.module), value.name)
    if isinstance(value, _NamedPartial):
        return functools.partial(_from_names(value.function), *_from_names(value.args), **_from_names(value.keywords))
    if isinstance(value, _Call):
        return _from_names(value.factory)(*_from_names(value.args), **_from_names(value.keywords))
    if isinstance(value, dict):
        return {name: _from_names(one) for name, one in value.items()}
    return type(value)(map(_from_names, value)) if type(value) in (tuple, list) else value


def _remake(factory: Callable[..., Model], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
    return factory(*_from_names(args), **_from_names(kwargs))


def reads_values(error: Exception) -> bool:
    """Whether an error says that a layer read the value of an array, which has none while shapes are followed."""
    error_types = (
        jax.errors.ConcretizationTypeError,
        jax.errors.NonConcreteBooleanIndexError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    )
    # Python's own errors, of a method or format that only arrays have, name JAX's tracers, and its own traced arrays
    text = str(error)
    return isinstance(error, error_types) or (
        ("Tracer" in text or "traced array" in text) and not isinstance(error, NnfuncError)
    )


def runs_eagerly(error: Exception, *trees: PyTree) -> bool:
    """Whether a layer that read its values, which is this error, can have them: outside of jit, from these arrays."""
    return reads_values(error) and not any(map(check.is_traced, jax.tree.leaves(trees)))


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


def trace_state() -> Any:
    """What tells whether two calls belong to the same trace: equal in one, other inside `jax.vmap` and the like."""
    from jax.extend.core import get_opaque_trace_state  # `import jax` does not bring it

    return get_opaque_trace_state()


def check_unchanged_state(where: str, state: PyTree, ctx: Context) -> None:
    """Refuse state that changes inside a transformation of a flow or an objective: it could not leave the trace.

    where: the child, for the error. state: its new state; buffers that are the same arrays pass. ctx: of the call.
    """
    new, old = jax.tree.leaves(state), jax.tree.leaves(ctx.state)
    changed = len(new) != len(old) or any(a is not b for a, b in zip(new, old, strict=True))
    if changed and (ctx.train or ctx.cache is not None):
        problem = "it keeps state, and is called inside a transformation (jax.vmap, jax.lax.scan, jax.checkpoint)"
        hint = "Call it on all values at once, use nf.repeat or nf.remat, or a layer without state."
        check.fail(where, f"{problem}, which cannot hand the new state on.", hint=hint)


def match_state(new: PyTree, old: PyTree) -> PyTree:
    """The model's new state with the dtypes of the old one, so that it can be carried by a scan.

    Raises: InvalidValueError when the structure or a shape differs.
    """
    _check_new_state("model", new, old)
    return jax.tree.map(match_dtype, new, old)


def _check_new_state(where: str, new: PyTree, old: PyTree) -> None:
    expected, actual = (jax.tree.map(np.shape, tree) for tree in (old, new))
    if expected != actual:
        expected = f"a layer's new state should have the shapes of its init_state, {expected}"
        check.fail(where, expected=expected, actual=actual, hint="Return nf.Out(state=...), ctx.state if unchanged.")


def match_dtype(new: Any, old: Any) -> Array:
    """The new value with the dtype of the old one: state whose dtype changes cannot be scanned."""
    return jnp.asarray(new).astype(jnp.asarray(old).dtype)


Layer = Model | tuple[Callable[..., Any], Callable[..., Any]] | Callable[..., Any]
"""What every combinator takes: a Model, a bare (init, apply) pair, or a function x -> y."""


def as_model(layer: Layer, *, where: str = "as_model") -> Model:
    """The Model of a layer.

    layer: a Model, a bare (init, apply) pair or a plain function x -> y; one with several required parameters
    takes them from a tuple x. where: the name for the error.
    Raises: TypeError when it is none of these.

    >>> as_model(jax.nn.relu).init(jax.random.key(0))
    {}
    """
    if isinstance(layer, Model):
        return layer
    if isinstance(layer, tuple) and len(layer) == 2 and all(map(callable, layer)):
        unpacked = unpacked_model(layer)
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


_fold_in = jax.jit(jax.random.fold_in, inline=True)


def fold_in(key: Key, number: Any) -> Key:
    """`jax.random.fold_in` in a tenth of the time outside of jit, because it is called for every name."""
    number = np.uint32(number) if isinstance(number, int) else number
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)  # raw keys depend on a global setting
    return _fold_in(key, number) if typed else jax.random.fold_in(key, number)


@overload
def fold(key: Key, name: str | int, call: int = 0) -> Key: ...
@overload
def fold(key: None, name: str | int, call: int = 0) -> None: ...
def fold(key: Key | None, name: str | int, call: int = 0) -> Key | None:
    """The child key that belongs to a name (or an index) and to the number of calls before this one."""
    if key is None:
        return None
    key = fold_in(key, np.uint32(zlib.crc32(name.encode())) if isinstance(name, str) else name)
    return fold_in(key, call) if call else key


def draws_same_under_vmap(key: Key) -> bool:
    """Whether such keys draw the same numbers under vmap as alone: JAX's rbg keys do not."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    impl = jax.random.key_impl(key) if typed else jax.config.jax_default_prng_impl  # pyright: ignore
    return "rbg" not in str(impl)


def vmap_keys(function: Callable[..., PyTree], keys: Key, *args: PyTree) -> PyTree:
    """`jax.vmap` of the function over keys and args; each row is equal to a call with its key alone."""
    if draws_same_under_vmap(keys):
        return jax.vmap(function)(keys, *args)
    return jax.lax.map(lambda row: function(*row), (keys, *args))


def indexed_keys(key: Key, n: int) -> Key:
    """The keys `fold_in(key, i)` for i below n, [n]."""
    if draws_same_under_vmap(key):
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
    return jnp.stack([jax.random.fold_in(key, i) for i in range(n)])


def cast_floating(tree: PyTree, dtype: DType) -> PyTree:
    """The tree with its floating-point arrays as dtype; other leaves stay as they are."""

    def cast(leaf):
        is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if is_float else leaf

    return jax.tree.map(cast, tree)


def wide_dtype(x: Any) -> DType:
    """The dtype to compute in: float64 for float64, else float32. x: an array, a number or a dtype.

    >>> wide_dtype(jnp.ones(2, jnp.bfloat16)).__name__
    'float32'
    """
    return jnp.float64 if jax.dtypes.result_type(x) == jnp.float64 else jnp.float32


def widen(x: Any) -> Array:
    """x in the dtype to compute in: float64 stays, all else, integers too, becomes float32.

    >>> [str(widen(jnp.ones(2, dtype)).dtype) for dtype in (jnp.bfloat16, jnp.float32, jnp.int32)]
    ['float32', 'float32', 'float32']
    """
    return jnp.asarray(x).astype(wide_dtype(x))


def varying_axes(tree: PyTree) -> tuple[str, ...]:
    """The mesh axes along which an array of the tree varies inside `jax.shard_map`; () outside of it."""
    types = [getattr(jax.typeof(leaf), "manual_axis_type", None) for leaf in jax.tree.leaves(tree)]
    return tuple(sorted({axis for one in types if one is not None for axis in one.varying}))


DATA_AXIS = "data"
"""The mesh axis that divides the examples of a batch."""


def is_partitioned(*, beyond_batch: bool = False) -> bool:
    """Whether the traced program will be divided over several devices by the compiler, as under `jax.set_mesh`.

    beyond_batch: whether another axis of the mesh than that of the batch counts only.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    auto = [name for name, size, axis_type in axes if size > 1 and axis_type == jax.sharding.AxisType.Auto]
    return any(name != DATA_AXIS for name in auto) if beyond_batch else bool(auto)


def batch_parts(size: int) -> int:
    """How many parts a batch of some examples is divided into over devices; 1 where they do not divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    count = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True)).get(DATA_AXIS, 1)
    return count if is_partitioned() and size % count == 0 else 1


def divide_examples(batch: PyTree) -> PyTree:
    """The batch, whose first axis is divided over the mesh axis `data` of a program that is divided over devices."""

    def divide(leaf):
        if not np.ndim(leaf) or batch_parts(np.shape(leaf)[0]) == 1:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, jax.sharding.PartitionSpec(DATA_AXIS))

    return jax.tree.map(divide, batch)


def vary_like(tree: PyTree, like: PyTree) -> PyTree:
    """The tree, varying along the mesh axes of `like` as well, as the carry of a loop has to from its start.

    tree, like: pytrees of arrays. Outside of `jax.shard_map` nothing changes.
    """
    axes = varying_axes(like)
    if not axes:
        return tree

    def vary(leaf):
        missing = tuple(axis for axis in axes if axis not in varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def canonicalize(tree: PyTree, where: str = "nnfunc") -> PyTree:
    """The tree with NumPy arrays in the dtypes of JAX: float64 as float32, int64 as int32, without x64.

    JAX itself warns of float64 in each layer, takes an id of 2**32 + 1 for 1, and refuses another byte order
    than this machine's. Here integers are clipped to the range of their new dtype, where every check of a
    range finds them. Raises: TypeError for arrays without numbers, such as strings and dates.
    """

    def convert(leaf):
        if not isinstance(leaf, np.ndarray | np.generic) or leaf.dtype == jax.dtypes.float0:
            return leaf
        check.numeric(where, leaf)
        leaf = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if dtype == leaf.dtype or not np.issubdtype(dtype, np.integer):
            return leaf.astype(dtype, copy=False)
        ends = np.iinfo(dtype)
        return np.clip(leaf, ends.min, ends.max).astype(dtype)

    return jax.tree.map(convert, tree)


def canonicalize_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function with canonical arguments, for functions that are not called through `Model.apply`."""
    where = factory_name(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        canonical_args, canonical_kwargs = canonicalize((args, kwargs), where)
        untyped: Callable[..., R] = function
        return untyped(*canonical_args, **canonical_kwargs)

    return wrapper


def to_device(x: Any) -> Array:
    """An array or a number as an array of JAX; one of the host is copied, so that later changes to it do no harm.

    x: the array. Unlike `jnp.asarray`, which compiles a program for each shape, it compiles nothing.
    """
    return x if isinstance(x, jax.Array) else jax.device_put(np.array(x))  # device_put alone may share the memory


def shape_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of an array or number."""
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf))


def shape_text(leaf: Any) -> str:
    """The dtype and shape of an array, such as float32[3, 4]; of anything else its name."""
    return f"{leaf.dtype}{[*leaf.shape]}" if hasattr(leaf, "dtype") else str(leaf)[:60]


def factory_name(function: Any) -> str:
    """The name of the factory in which a function was defined: `linear` for linear.<locals>.apply."""
    parts = getattr(function, "__qualname__", "layer").split(".<locals>.")
    return _clean(parts[-2] if len(parts) > 1 else parts[-1])


def function_name(function: Any) -> str:
    """The name of a plain function, as part of a path."""
    function = getattr(function, "func", function)  # a functools.partial
    return _clean(getattr(function, "__name__", type(function).__name__))


def _clean(name: str) -> str:
    return re.sub(r"\W+", "", name.rsplit(".", 1)[-1]).strip("_") or "layer"


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
    required = inspect.signature(init_state).parameters["key"].default is inspect.Parameter.empty

    def draw(key: Key | None = None) -> PyTree:
        if required and key is None:
            hint = "Call model.init_state(key)."
            check.fail(name, "its state begins at random, which needs a key.", hint=hint, exc_type=MissingKeyError)
        if key is not None:
            check.key(f"{name}.init_state", key)
        return init_state(key=key)

    return draw


def parameter_names(function: Callable[..., Any]) -> tuple[Collection[str], bool]:
    """The names of a function's parameters, and whether it takes any other keyword."""
    if type(function) is FunctionType and not function.__dict__:  # not wrapped; ten times as quick
        code = function.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return names, bool(code.co_flags & inspect.CO_VARKEYWORDS)
    parameters = inspect.signature(function).parameters
    return parameters, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def named_parameters(function: Any) -> Collection[str]:
    """The names of the parameters of a function, a callable object or a partial, without those it binds."""
    try:
        names, _ = parameter_names(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return ()
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return [name for name in names if name not in bound]


def required_parameters(function: Any) -> list[str]:
    """The names of the positional parameters of a function without default values."""
    if type(function) is FunctionType and not function.__dict__:  # not wrapped; ten times as quick
        code, defaults = function.__code__, function.__defaults__ or ()
        return list(code.co_varnames[: code.co_argcount - len(defaults)])
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def unpack_parts(function: Callable[..., R], where: str, *, skip: int = 0) -> Callable[..., R]:
    """The function of one x; one with several required parameters gets the parts of x, a tuple of that length.

    where: the name for the error. skip: the number of parameters before x.
    """
    names = required_parameters(function)[skip:]
    if len(names) < 2:
        return function

    def unpacked(*args: Any) -> R:
        *before, x = args
        if not isinstance(x, tuple) or len(x) != len(names):
            expected = f"x should be a tuple ({', '.join(names)})"
            actual = f"a tuple of {len(x)}" if isinstance(x, tuple) else check.describe(x)
            check.fail(where, expected=expected, actual=actual, exc_type=TypeError)
        return function(*before, *x)

    return unpacked


def _checked_forward(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The forward of a layer, whose result is checked to be (y, Out), in training with the state that it got."""

    @functools.wraps(forward)
    def checked(params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        result = forward(params, x, ctx)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Out)):
            expected = "forward should return (y, nf.Out(state=..., taps=...))"
            check.fail(name, expected=expected, actual=check.describe(result), exc_type=TypeError)
        if ctx.train and jax.tree.leaves(ctx.state):
            _check_new_state(name, result[1].state, ctx.state)
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
