"""Models out of models. `wire` is the general one: it names its children and does the bookkeeping.

Every combinator takes Models, bare (init, apply) pairs and plain functions alike. The names of the
children become parameter paths, random keys, scopes in the profiler, and the names of taps.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check, paths
from nnfunc.base import (
    Array,
    Context,
    DType,
    Layer,
    Model,
    Out,
    Params,
    PyTree,
    as_model,
    cast_floating,
    check_unchanged_state,
    factory_name,
    fold,
    shape_struct,
    trace_state,
    unpack_parts,
)
from nnfunc.rematerialization import gathering
from nnfunc.taps import tap


class Net:
    """The children of a `wire`, bound to their parameters for one call: `net.body(x)`.

    `net["body"](x)` is the same, `net.body(x, t)` passes the tuple (x, t), and `net.body.params` are the
    parameters of the child. A child may be called any number of times: it shares its parameters,
    draws fresh dropout masks each time, and hands its state from one call to the next. `net.key` is a random
    key for the flow itself, the same at each access, or None without one (unless a child is called key).
    """

    __slots__ = ("_calls", "_children", "_ctx", "_params", "_state", "_taps", "_trace")

    _owner, _part = "wire", "child"  # for errors

    def __init__(self, children: Mapping[str, Model], params: Params, ctx: Context):
        self._children, self._params, self._ctx = children, params, ctx
        self._state = dict(ctx.state)
        self._taps: dict[str, PyTree] = {}
        self._calls = dict.fromkeys(children, 0)
        self._trace = trace_state()

    def __getattr__(self, name: str) -> Any:
        if name == "key" and name not in self._children:
            return fold(self._ctx.key, "flow")
        if name not in self._children:
            where = "/".join((*self._ctx.path, self._owner))
            near = check.nearest(name, self._children)
            raise AttributeError(f"{where}: no {self._part} is called {name!r}{near}")
        return _Child(self, name)

    __getitem__ = __getattr__

    def _call(self, name: str, x: PyTree) -> PyTree:
        calls, self._calls[name] = self._calls[name], self._calls[name] + 1
        ctx = replace(self._ctx, state=self._state).enter(name, call=calls)
        hidden = trace_state() != self._trace  # inside jax.vmap, jax.lax.scan and the like: no value may be kept
        if hidden:
            ctx = replace(ctx, capture=())
            if ctx.watch is not None:
                ctx.watch.hidden["/".join(ctx.path)] = None
        y, out = call_child(self._children[name], self._params.get(name, {}), x, ctx)
        if hidden:
            check_unchanged_state("/".join(ctx.path), out.state, ctx)
            return y
        if jax.tree.leaves(out.state):
            self._state[name] = out.state
        self._taps |= out.taps
        return y

    def _out(self) -> Out:
        return Out(self._state, self._taps)


class _Child:
    """A child of a `Net`, to call, also by jax.jit and jax.checkpoint, which refer to it weakly."""

    __slots__ = ("__weakref__", "_name", "_net")

    def __init__(self, net: Net, name: str):
        self._net, self._name = net, name

    def __call__(self, x: PyTree, *others: PyTree) -> PyTree:
        return self._net._call(self._name, (x, *others) if others else x)

    def __getattr__(self, name: str) -> Any:
        net, child = ("predict" if self._net._owner == "predict" else "net"), self._name
        hint = f"Call it as {net}.{child}(x); its parameters are {net}.{child}.params."
        raise AttributeError(f"{net}.{child}: there is no attribute {name!r}. {hint}")

    @property
    def params(self) -> Params:
        """The parameters of the child; {} without any."""
        return self._net._params.get(self._name, {})


def call_child(child: Model, params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
    """One call of a named child: errors get its path, its result is captured or patched."""
    if ctx.watch is not None:
        # shapes, so that no tracer outlives its trace
        shapes = jax.tree.map(shape_struct, (params, x, replace(ctx, watch=None)))
        ctx.watch.calls.append((ctx.path, child, *shapes))
    try:
        with jax.named_scope(ctx.path[-1]):
            if ctx.partition is None:
                y, out = child.forward(params, x, ctx)
            else:
                y, out = gathering(child, ctx)(params, ctx.partition.enter(child.name, x), ctx)
                y = ctx.partition.leave(child.name, y)
    except Exception as error:
        check.locate(error, ctx.path)
        raise
    return tap(ctx, "/".join(ctx.path), y, out)


def wire(flow: Callable[..., PyTree], /, **children: Layer) -> Model:
    """The general combinator: `flow(net, x) -> y` calls the named children in any order.

    The parameters are `{name: parameters of the child}`, without the children that have none.

    flow: an ordinary function, in which `net.name(x)` calls the child `name`, `net.name.params` are the parameters
        of the child, and `net.key` is a random key. Several values: `flow(net, x, t)`, whose arguments after net
        have no defaults, takes x and t from a tuple, as in `model.apply(params, (x, t))`, and as a child is called
        as `net.name(x, t)`.
    Inside a transformation such as `jax.vmap` or `jax.lax.scan` of the flow a child works, but its values cannot be
    captured, its calls share one key and so one dropout mask, and state cannot change, which is an error: call the
    child on all values at once, put the transformation around the model, or use `repeat` and `remat`, which carry
    all of it.
    children: the layers by name; a name has no '/', '*' or '@' and no leading '_'.
    Raises: TypeError when a child is no layer, or x is not the tuple that the flow takes; ValueError when a name
    cannot be part of a path.

    >>> gate = nf.wire(lambda net, x: net.value(x) * jax.nn.sigmoid(net.gate(x)),
    ...                value=nf.linear(4, 8), gate=nf.linear(4, 8))
    >>> gate.apply(gate.init(jax.random.key(0)), jnp.ones((2, 4))).shape
    (2, 8)
    """
    name = factory_name(flow)
    models = {child: as_model(layer, where=f"{name}: {child}") for child, layer in children.items()}
    for child in models:
        if not child or any(letter in child for letter in "/*@") or child.startswith("_"):
            expected = "a child should have a name without '/', '*', '@' and leading '_'"
            check.fail(name, expected=expected, actual=repr(child))
    call_flow = unpack_parts(flow, name, skip=1)

    def init(key):
        params = {child: model.init(fold(key, child)) for child, model in models.items()}
        return {child: leaves for child, leaves in params.items() if jax.tree.leaves(leaves)}

    def init_state(key=None):
        states = {child: model.init_state(fold(key, child)) for child, model in models.items()}
        return {child: state for child, state in states.items() if jax.tree.leaves(state)}

    def forward(params, x, ctx):
        if not isinstance(params, dict):
            expected = f"params should be a dict with {sorted(models)}"
            check.fail(name, expected=expected, actual=check.describe(params), exc_type=TypeError)
        extra = sorted(set(params) - set(models))
        if extra:
            known = check.nearest(extra[0], models)
            check.fail(name, f"params hold {extra[0]!r}, which no child is called{known}")
        net = Net(models, params, ctx)
        y = call_flow(net, x)
        return y, net._out()

    return Model(init, forward=forward, init_state=init_state, name=name, parts=models)


def _name_layers(where: str, layers: Sequence[Layer], named: dict[str, Layer]) -> dict[str, Model]:
    """All layers by name; unnamed ones are called linear, relu, linear_1, ..., after their factories."""
    models: dict[str, Model] = {}
    repeats: Counter[str] = Counter()
    for index, layer in enumerate(layers):
        model = as_model(layer, where=f"{where}: layer {index}")
        name = model.name
        while name in models:  # a function may itself be called linear_1
            repeats[model.name] += 1
            name = f"{model.name}_{repeats[model.name]}"
        models[name] = model
    both = set(models) & set(named)
    if both:
        check.fail(where, expected="names should be unique", actual=f"{sorted(both)} twice", hint="Name all layers.")
    return models | {name: as_model(layer, where=f"{where}: {name}") for name, layer in named.items()}


def serial(*layers: Layer, **named: Layer) -> Model:
    """One layer after another: `serial(a, b)(x)` is `b(a(x))`; without layers it is the identity.

    layers: unnamed layers, which come first and are called after their factories: `linear`, `relu`, `linear_1`.
    named: further layers by name; their names, initial values and dropout masks stay the same when layers are
        inserted between them.

    >>> model = nf.serial(nf.linear(2, 8), jax.nn.relu, head=nf.linear(8, 1))
    >>> sorted(model.init(jax.random.key(0)))
    ['head', 'linear']
    """
    children = _name_layers("serial", layers, named)

    def flow(net, x):
        for name in children:
            x = net[name](x)
        return x

    return wire(flow, **children)


def parallel(*layers: Layer, **named: Layer) -> Model:
    """Every layer on the same x: a tuple of results, or a dict by name when all are named.

    layers: unnamed layers, called after their factories as in `serial`.
    named: layers by name.

    >>> both = nf.parallel(nf.linear(4, 2), jnp.tanh)
    >>> [y.shape for y in both.apply(both.init(jax.random.key(0)), jnp.ones((3, 4)))]
    [(3, 2), (3, 4)]
    """
    children = _name_layers("parallel", layers, named)

    def flow(net, x):
        results = {name: net[name](x) for name in children}
        return tuple(results.values()) if layers else results

    return wire(flow, **children)


def residual(body: Layer) -> Model:
    """`x + body(x)`: the body learns a correction to its input.

    body: a layer that keeps the shape of x.
    Raises: ValueError when it does not.
    Source: He et al. 2015, arXiv:1512.03385.

    >>> block = nf.residual(nf.linear(4, 4))
    >>> block.apply(block.init(jax.random.key(0)), jnp.ones((3, 4))).shape
    (3, 4)
    """

    def flow(net, x):
        y = net.body(x)
        check.same_shape("residual", "Give the body a last layer with the width of x.", body_output=y, x=x)
        return x + y

    return wire(flow, body=body)


def tie(model: Layer, shared: dict[str, str | tuple[str, Callable[[Array], Array]]]) -> Model:
    """The model with some parameters shared: they are one leaf, trained together.

    model: the layer.
    shared: {path of the parameter to drop: path of the one to use}, or (path, function of it) to use it transposed
        or scaled.
    Raises: ValueError when a path is not a parameter or the shapes differ.

    >>> body = nf.serial(encode=nf.linear(4, 2, bias=False), decode=nf.linear(2, 4, bias=False))
    >>> tied = nf.tie(body, {"decode/weight": ("encode/weight", jnp.transpose)})
    >>> list(tied.init(jax.random.key(0)))
    ['encode']
    """
    model = as_model(model, where="tie")
    sources = {to: (s, lambda w: w) if isinstance(s, str) else s for to, s in shared.items()}
    for to, (source, _) in sources.items():
        if source in sources:
            check.fail("tie", expected=f"{to!r} should use a parameter that is not dropped", actual=repr(source))

    def init(key):
        leaves = paths.flatten(model.init(key))
        for to, (source, change) in sources.items():
            for path in (to, source):
                if path not in leaves:
                    near = check.nearest(path, leaves)
                    check.fail("tie", f"each path should be a parameter, got {path!r}{near}")
            check.same_shape("tie", **{to: leaves[to], source: change(leaves[source])})
        return paths.unflatten({path: leaf for path, leaf in leaves.items() if path not in sources})

    def forward(params, x, ctx):
        leaves = paths.flatten(params)
        whole = params if ctx.partition is None else ctx.partition.gather(params, ctx)
        for to, (source, change) in sources.items():
            leaves[to] = change(paths.flatten(whole)[source])
        return model.forward(paths.unflatten(leaves), x, ctx)

    return model.replace(init=init, forward=forward)


def precision(body: Layer, compute: DType = jnp.bfloat16, *, output: DType = jnp.float32) -> Model:
    """The body computed in `compute`; its parameters stay float32, and y is returned as `output`.

    Floating-point inputs are cast first. Layers with `full_precision` (the norms) get their parameters
    unchanged and compute in float32.

    body: the layer.
    compute: the dtype of the computation.
    output: the dtype of y.

    >>> half = nf.precision(nf.linear(4, 2), jnp.bfloat16)
    >>> half.apply(half.init(jax.random.key(0)), jnp.ones((3, 4))).dtype
    dtype('float32')
    """
    body = as_model(body, where="precision")

    def forward(params, x, ctx):
        inside = replace(ctx, compute=jnp.dtype(compute))
        y, out = body.forward(params, cast_floating(x, compute), inside)
        return cast_floating(y, output), out

    return body.replace(forward=forward)
