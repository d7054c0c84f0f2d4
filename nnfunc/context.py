"""What a layer reads besides params and x (`Context`), and what it returns besides y (`Out`)."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import jax

from nnfunc import check
from nnfunc.array_types import Array, DType, Key, Params, PyTree, cast_floating
from nnfunc.errors import MissingKeyError
from nnfunc.random_keys import fold
from nnfunc.signatures import named_parameters


class Out(NamedTuple):
    """The outputs of a layer besides y.

    state: the new state of the layer, nested dicts; {} without one.
    taps: the captured values by path.
    """

    state: PyTree = {}
    taps: dict[str, PyTree] = {}


@dataclass(eq=False)
class Watch:
    """A record of one traced call, written in Python while it is traced.

    paths: the path of every value, in the order of computation, and whether the value exists only for a pattern
        that ends with its name.
    calls: one entry for each layer call, (path, child, params, x, ctx) as shapes.
    repeats: the path of every `repeat`.
    hidden: the path of every child that was called inside a transformation of its flow, where no value may leave
        the trace.
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

    delta: an array that broadcasts to the value, such as one vector for all positions, or a pytree of them where
        the value is one.

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

    gathers: whether parameters are divided over the devices of the batch. gather(params, ctx, full_precision):
        those of the layer of this context, of a `repeat` one layer at a time, as it computes with them, and in the
        dtype that it casts them to; full_precision: of the `Model`. between(x): what the blocks of a repeat hand
        on, divided. enter(name, x), leave(name, y): the input and the output of a layer, by the name of its
        factory.
    """

    gathers: bool

    def gather(self, params: Params, ctx: "Context", full_precision: bool | Sequence[str] = False) -> Params: ...

    def between(self, x: PyTree) -> PyTree: ...

    def enter(self, name: str, x: PyTree) -> PyTree: ...

    def leave(self, name: str, y: PyTree) -> PyTree: ...


@dataclass(frozen=True)
class Context:
    """The inputs of a layer besides params and x: arrays (key, state, patch, layer) and static settings.

    key: the random key of the layer, None without randomness.
    train: whether running statistics are updated.
    state: the state of the layer.
    path: the names that lead to it.
    capture: patterns of the values to report.
    patch: in their order, values that replace computed ones, a Nudge that is added to them, or a function of them.
    layer: the index of the layer in each surrounding `repeat` or `ensemble`.
    sizes: their numbers of layers.
    compute: the dtype of layers without full precision.
    cache: while a sequence is generated, the number of positions that the state of a layer holds: with an empty
        state x is the start of the sequence, later its continuation; None otherwise.
    remat: how `repeat` recomputes its blocks in the backward pass, None for not.
    names: inside `remat` with a policy, patterns of the values to store, () to name each value after its layer;
        None otherwise.
    partition: how values are divided over devices, None for not.
    watch: the record of this traced call, None for none.

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
