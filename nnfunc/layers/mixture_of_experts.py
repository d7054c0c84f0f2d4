"""Mixture of experts: many perceptrons, of which a router picks a few for each token."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Key, Model, Out, Params, fold, indexed_keys, is_partitioned, widen
from nnfunc.layers.feed_forward import resolve_activation
from nnfunc.layers.linear import matmul_rows
from nnfunc.taps import tap


def mixture_of_experts(
    dim: int,
    hidden: int,
    num_experts: int,
    *,
    top_k: int = 2,
    activation: str | Callable[[Array], Array] = "gelu",
    weighing: Literal["chosen", "all"] = "chosen",
    capacity: float | None = None,
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    out_init: Initializer | None = None,
) -> Model:
    """`y = sum over the top_k likeliest experts e of weight_e * expert_e(x)`, routed token by token.

    The router is linear, in float32: `logits = x @ router`. An expert is a `feed_forward`.

    dim: the width of x and y.
    hidden: the hidden width of an expert, at least 1.
    num_experts: at least 1.
    top_k: the experts of a token, in [1, num_experts]; 2 as in Mixtral, 1 as in Switch.
    activation: as in `feed_forward`; a gated one adds a third matrix, `gate`.
    weighing: what the weights of a token are: "chosen" is the softmax over the logits of its top_k experts, so that
        they add up to 1 (Mixtral); "all" is their probabilities among all experts (Switch). With top_k = 1 only
        "all" trains the router.
    capacity: None, the default, drops no token: every expert computes all tokens, as two matrix products of width
        num_experts * hidden. A number above 0 limits each expert to ceil(capacity * top_k * tokens / num_experts)
        tokens, first choices first and then in order of position; further tokens get nothing from it. That costs
        num_experts / (top_k * capacity) times less, but makes the tokens of a batch depend on each other. From
        num_experts / top_k on no token is dropped.
    bias: whether the experts have biases; the router has none.
    weight_init: draws each expert by itself.
    out_init: the initializer of `down`, by default weight_init.

    Values to `capture`, each over all tokens of x:
    router/balance_loss: num_experts * sum_e fraction_e * mean probability_e, with fraction_e the fraction of
    all choices that expert e received; 1 when balanced, num_experts at most.
    router/z_loss: the mean of logsumexp(logits)^2. router/fraction: the fractions, [num_experts].
    An objective adds the losses so:

    >>> model = nf.serial(nf.linear(3, 4), moe=nf.mixture_of_experts(4, 8, 6), head=nf.linear(4, 2))
    >>> def objective(predict, batch):
    ...     inside = nf.capture(predict.model, "**/router/*_loss")
    ...     key, state, train = predict.ctx.key, predict.ctx.state, predict.ctx.train
    ...     y, taps = inside(predict.params, batch[0], key=key, state=state, train=train)
    ...     balance = taps["moe/router/balance_loss"].mean()   # over the layers of a repeat
    ...     loss = nf.losses.mse(y, batch[1]).mean() + 0.01 * balance
    ...     return loss + 0.001 * taps["moe/router/z_loss"].mean(), {"balance": balance}
    >>> build = lambda h: nf.Task(model, objective, nf.optimizers.adamw(h["rate"]))
    >>> init, step = nf.trainer(build)
    >>> hypers, batch = {"rate": 1e-3}, (jnp.ones((5, 3)), jnp.ones((5, 2)))
    >>> state, metrics = jax.jit(step)(hypers, init(hypers, jax.random.key(0)), batch)
    >>> 1 <= float(metrics["balance"]) <= 6
    True

    Shapes: x [..., dim] -> y [..., dim]; router/weight [dim, num_experts]; up/weight (and gate/weight, when
    gated) [num_experts, dim, hidden], down/weight [num_experts, hidden, dim]; biases [num_experts, ...].
    Raises: ValueError when a number is out of range, the last axis of x is not dim, or a sequence is generated
    with a capacity; TypeError for a traced capacity, which sets a shape.
    Source: Shazeer et al. 2017, arXiv:1701.06538; the balance loss: Fedus et al. 2021 (Switch),
    arXiv:2101.03961, equation 4, of all top_k choices.
    capacity: Lepikhin et al. 2020 (GShard), arXiv:2006.16668; the z loss: Zoph et al. 2022 (ST-MoE),
        arXiv:2202.08906, equation 5.
    """
    where = "mixture_of_experts"
    check.size(where, dim=dim, hidden=hidden, num_experts=num_experts, top_k=top_k)
    check.number(where, 1, num_experts, top_k=top_k, hint="Each token goes to top_k of the num_experts experts.")
    check.choice(where, ("chosen", "all"), weighing=weighing)
    if capacity is not None:
        check.number(where, 0, open_low=True, capacity=capacity)
        if check.is_traced(capacity):
            expected = "capacity sets a shape, so it should be a plain number"
            check.fail(where, expected=expected, actual="a traced one", exc_type=TypeError)
    gated, act = resolve_activation(where, activation)
    ups = ("up", "gate") if gated else ("up",)

    def init(key):
        def layer(name: str, in_dim: int, out_dim: int, weight: Initializer) -> Params:
            params = {"weight": _init_experts(weight, fold(key, name), (num_experts, in_dim, out_dim))}
            return params | {"bias": jnp.zeros((num_experts, out_dim), jnp.float32)} if bias else params

        router = {"weight": weight_init(fold(key, "router"), (dim, num_experts))}
        inner = {name: layer(name, dim, hidden, weight_init) for name in ups}
        return {"router": router, **inner, "down": layer("down", hidden, dim, out_init or weight_init)}

    def hidden_values(params: Params, x: Array, contract: str) -> Array:
        """The hidden values of every expert, [num_experts, tokens, hidden]."""
        values = []
        for name in ups:
            y = jnp.einsum(contract, x, params[name]["weight"])
            values.append(y + params[name]["bias"][:, None] if bias else y)
        return values[0] * act(values[1]) if gated else act(values[0])

    def run_all(params: Params, x: Array, choices: Array, weights: Array) -> Array:
        """Every expert on every token; the sum over experts is part of the second product."""
        one_hot = jax.nn.one_hot(choices, num_experts, dtype=x.dtype)  # [tokens, top_k, num_experts]
        table = (one_hot * weights[..., None]).sum(-2)  # [tokens, num_experts]
        inner = hidden_values(params, x, "td,edh->eth") * table.T[..., None]  # [num_experts, tokens, hidden]
        down = params["down"]["weight"]
        if bias and is_partitioned():  # the biases as one more row of weights: one sum over the devices
            inner = jnp.concatenate([inner, table.T[..., None]], axis=-1)
            down = jnp.concatenate([down, params["down"]["bias"][:, None]], axis=1)  # [num_experts, hidden + 1, dim]
        y = jnp.einsum("eth,ehd->td", inner, down)
        return y + table @ params["down"]["bias"] if bias and not is_partitioned() else y

    def run_chosen(params: Params, x: Array, choices: Array, weights: Array, limit: int) -> Array:
        """Each expert on at most `limit` tokens, which are moved to its rows and back."""
        rank = _queue_ranks(choices, num_experts)  # [tokens, top_k]
        slot = jnp.where(rank < limit, choices * limit + rank, num_experts * limit)
        token = jnp.broadcast_to(jnp.arange(len(x), dtype=jnp.int32)[:, None], slot.shape)
        queue = jnp.full(num_experts * limit, len(x), jnp.int32).at[slot].set(token, mode="drop")
        queued = x.at[queue].get(mode="fill", fill_value=0)
        queued = queued.reshape(num_experts, limit, dim)  # [num_experts, limit, dim]
        inner = hidden_values(params, queued, "etd,edh->eth")
        y = jnp.einsum("eth,ehd->etd", inner, params["down"]["weight"])
        y = y + params["down"]["bias"][:, None] if bias else y
        y = y.reshape(num_experts * limit, dim)  # [slots, dim]
        y = y.at[slot].get(mode="fill", fill_value=0)  # [tokens, top_k, dim]
        return (y * weights[..., None]).sum(-2)

    def forward(params, x, ctx):
        check.last_axis(where, x, dim=dim)
        if capacity is not None and ctx.cache is not None:
            expected = "a model that generates should have capacity=None, so that tokens do not depend on each other"
            hint = "Generate with the same parameters in such a model."
            check.fail(where, expected=expected, actual=capacity, hint=hint)
        tokens = jnp.asarray(x).reshape(math.prod(x.shape[:-1]), dim)  # [tokens, dim]
        wide = widen(tokens)
        logits = matmul_rows(wide, params["router"]["weight"].astype(wide.dtype))
        probabilities = jax.nn.softmax(logits)
        top_logits, choices = _largest(logits, top_k)
        top_probabilities = jnp.take_along_axis(probabilities, choices, axis=-1)
        weights = jax.nn.softmax(top_logits) if weighing == "chosen" else top_probabilities
        weights = weights.astype(x.dtype)

        experts = ctx.cast({name: params[name] for name in (*ups, "down")})
        if capacity is None or capacity * top_k >= num_experts:
            y = run_all(experts, tokens, choices, weights)
        else:
            limit = math.ceil(capacity * top_k * len(tokens) / num_experts)
            y = run_chosen(experts, tokens, choices, weights, limit)

        out = Out(ctx.state)
        for name, value in _router_values(logits, probabilities, choices).items():
            _, out = tap(ctx, "/".join((*ctx.path, "router", name)), value, out)
        return y.reshape(x.shape), out  # [..., dim]

    return Model(init, forward=forward, name=where, full_precision=("router",))


def _router_values(logits: Array, probabilities: Array, choices: Array) -> dict[str, Array]:
    """The values to capture about the routing of all tokens; none of them changes y."""
    tokens, num_experts = logits.shape
    counts = jax.nn.one_hot(choices, num_experts, dtype=logits.dtype).sum((0, 1))
    fraction = counts / max(choices.size, 1)
    mean = probabilities.sum(0) / max(tokens, 1)
    z = jax.nn.logsumexp(logits, axis=-1)
    z_loss = jnp.sum(z * z) / max(tokens, 1)
    return {"balance_loss": num_experts * (fraction * mean).sum(), "z_loss": z_loss, "fraction": fraction}


def _largest(logits: Array, count: int) -> tuple[Array, Array]:
    """The largest logits of each token and their indices, as `jax.lax.top_k`, which is not divided over devices."""
    if not is_partitioned():
        return jax.lax.top_k(logits, count)
    values, indices, rest = [], [], logits
    for _ in range(count):
        index = jnp.argmax(rest, axis=-1, keepdims=True)
        values.append(jnp.take_along_axis(logits, index, axis=-1))
        indices.append(index.astype(jnp.int32))
        rest = jnp.where(jnp.arange(logits.shape[-1]) == index, -jnp.inf, rest)
    return jnp.concatenate(values, axis=-1), jnp.concatenate(indices, axis=-1)


def _queue_ranks(choices: Array, num_experts: int) -> Array:
    """The rank of each choice in the queue of its expert: all first choices, then all second ones."""
    tokens, top_k = choices.shape
    by_rank = choices.T.reshape(-1)  # [top_k * tokens]
    one_hot = jax.nn.one_hot(by_rank, num_experts, dtype=jnp.int32)
    before = (jnp.cumsum(one_hot, axis=0, dtype=jnp.int32) * one_hot).sum(-1, dtype=jnp.int32)
    return before.reshape(top_k, tokens).T - 1  # [tokens, top_k]


def _init_experts(initializer: Initializer, key: Key, shape: tuple[int, int, int]) -> Array:
    """The weights of each expert drawn alone, so that the initializer sees the fan-in of one expert."""
    num_experts, *one = shape
    return jax.lax.map(lambda key: initializer(key, tuple(one)), indexed_keys(key, num_experts))
