"""Mixture of experts: many perceptrons, of which a router picks a few for each token."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Key, Model, Out, Params, fold
from nnfunc.combinators import tap
from nnfunc.layers.feed_forward import activation_of
from nnfunc.layers.linear import rows

__all__ = ["experts"]


def experts(
    dim: int,
    hidden: int,
    count: int,
    *,
    k: int = 2,
    activation: str | Callable[[Array], Array] = "gelu",
    weighing: Literal["chosen", "all"] = "chosen",
    capacity: float | None = None,
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    out_init: Initializer | None = None,
) -> Model:
    """`y = sum over the k likeliest experts e of weight_e * expert_e(x)`, chosen for each token.

    The router is linear, in float32: `logits = x @ router`. weighing: the weights are the softmax
    of the logits of the "chosen" experts, so that they sum to 1 (Mixtral), or their probabilities
    among "all" (Switch; with k = 1 only this one teaches the router). An expert is a `feed_forward`
    with the given activation.
    capacity: None drops no token: every expert sees all tokens, as two matrix products of width
    count * hidden. With a number, each expert takes at most ceil(capacity * k * tokens / count)
    tokens, first choices first and then in order of place; what is over adds nothing. It costs
    count / (k * capacity) times less, but the tokens of a batch then depend on each other. At
    count / k none is dropped.

    Values to `capture`, each over all tokens of x:
    router/balance_loss: count * sum_e share_e * mean probability_e, where share_e is the share of
    all choices that fell on e; 1 when balanced, up to count. router/z_loss: mean logsumexp(logits)^2.
    router/share: the shares, [count]. An objective adds them so:

    >>> model = nf.serial(nf.linear(3, 4), nf.experts(4, 8, 6), nf.linear(4, 2))
    >>> def objective(predict, batch):
    ...     inside = nf.capture(predict.model, "**/router/*_loss")
    ...     key, state, train = predict.ctx.key, predict.ctx.state, predict.ctx.train
    ...     y, taps = inside(predict.params, batch[0], key=key, state=state, train=train)
    ...     balance = taps["experts/router/balance_loss"].mean()   # over the layers of a repeat
    ...     loss = nf.losses.mse(y, batch[1]).mean() + 0.01 * balance
    ...     return loss + 0.001 * taps["experts/router/z_loss"].mean(), {"balance": balance}
    >>> build = lambda h: nf.Task(model, objective, nf.optimizers.adamw(h["rate"]))
    >>> init, step = nf.trainer(build)
    >>> hypers, batch = {"rate": 1e-3}, (jnp.ones((5, 3)), jnp.ones((5, 2)))
    >>> state, metrics = jax.jit(step)(hypers, init(hypers, jax.random.key(0)), batch)
    >>> 1 <= float(metrics["balance"]) <= 6
    True

    Shapes: x [..., dim] -> y [..., dim]; router/weight [dim, count]; up/weight (and gate/weight, when
    gated) [count, dim, hidden], down/weight [count, hidden, dim]; biases [count, ...].
    k from 1 to count, capacity above 0. weight_init draws each expert alone; out_init is that of
    `down`, weight_init by default.
    Source: Shazeer et al. 2017, arXiv:1701.06538; the balance loss: Fedus et al. 2021 (Switch),
    arXiv:2101.03961, equation 4, of all k choices; capacity: Lepikhin et al. 2020 (GShard),
    arXiv:2006.16668; the z loss: Zoph et al. 2022 (ST-MoE), arXiv:2202.08906, equation 5.
    """
    check.size("experts", dim=dim, hidden=hidden, count=count, k=k)
    check.number("experts", 1, count, k=k, hint="Each token goes to k of the count experts.")
    check.choice("experts", ("chosen", "all"), weighing=weighing)
    if capacity is not None:
        check.number("experts", 0, open_low=True, capacity=capacity)
        if check.is_traced(capacity):
            problem = "capacity sets a shape, so it should be a plain number, got a traced one."
            check.fail("experts", problem, exc_type=TypeError)
    gated, act = activation_of("experts", activation)
    ups = ("up", "gate") if gated else ("up",)

    def init(key):
        def layer(name: str, in_dim: int, out_dim: int, weight: Initializer) -> Params:
            params = {"weight": _drawn(weight, fold(key, name), (count, in_dim, out_dim))}
            return params | {"bias": jnp.zeros((count, out_dim), jnp.float32)} if bias else params

        router = {"weight": weight_init(fold(key, "router"), (dim, count))}
        inner = {name: layer(name, dim, hidden, weight_init) for name in ups}
        return {"router": router, **inner, "down": layer("down", hidden, dim, out_init or weight_init)}

    def hidden_of(params: Params, x: Array, contract: str) -> Array:
        """The hidden units of every expert, [count, tokens, hidden]."""
        made = []
        for name in ups:
            y = jnp.einsum(contract, x, params[name]["weight"])
            made.append(y + params[name]["bias"][:, None] if bias else y)
        return made[0] * act(made[1]) if gated else act(made[0])

    def on_all(params: Params, x: Array, chosen: Array, weights: Array) -> Array:
        """Every expert on every token; the sum over experts is part of the second product."""
        table = (jax.nn.one_hot(chosen, count, dtype=x.dtype) * weights[..., None]).sum(-2)
        inner = hidden_of(params, x, "td,edh->eth") * table.T[..., None]
        y = jnp.einsum("eth,ehd->td", inner, params["down"]["weight"])
        return y + table @ params["down"]["bias"] if bias else y

    def on_chosen(params: Params, x: Array, chosen: Array, weights: Array, most: int) -> Array:
        """Each expert on at most `most` tokens, which are moved to its rows and back."""
        rank = _rank(chosen, count)  # [tokens, k], the place in the queue of the expert
        slot = jnp.where(rank < most, chosen * most + rank, count * most)
        token = jnp.broadcast_to(jnp.arange(len(x), dtype=jnp.int32)[:, None], slot.shape)
        queue = jnp.full(count * most, len(x), jnp.int32).at[slot].set(token, mode="drop")
        own = x.at[queue].get(mode="fill", fill_value=0).reshape(count, most, dim)
        inner = hidden_of(params, own, "etd,edh->eth")
        y = jnp.einsum("eth,ehd->etd", inner, params["down"]["weight"])
        y = (y + params["down"]["bias"][:, None] if bias else y).reshape(count * most, dim)
        back = y.at[slot].get(mode="fill", fill_value=0)  # [tokens, k, dim]
        return (back * weights[..., None]).sum(-2)

    def forward(params, x, ctx):
        check.last_axis("experts", x, dim=dim)
        tokens = jnp.asarray(x).reshape(math.prod(x.shape[:-1]), dim)
        wide = tokens if tokens.dtype == jnp.float64 else tokens.astype(jnp.float32)
        logits = rows(wide, params["router"]["weight"].astype(wide.dtype))
        shares = jax.nn.softmax(logits)
        best, chosen = jax.lax.top_k(logits, k)
        picked = jnp.take_along_axis(shares, chosen, axis=-1)
        weights = jax.nn.softmax(best) if weighing == "chosen" else picked

        if capacity is not None and ctx.cache is not None:
            cure = "Generate with the same parameters in a model of capacity=None."
            problem = "with a capacity, what a token gets depends on the others of its batch."
            check.fail("experts", f"{problem} {cure}")
        own = ctx.cast({name: params[name] for name in (*ups, "down")})
        weights = weights.astype(x.dtype)
        if capacity is None or capacity * k >= count:
            y = on_all(own, tokens, chosen, weights)
        else:
            most = math.ceil(capacity * k * len(tokens) / count)
            y = on_chosen(own, tokens, chosen, weights, most)

        out = Out(ctx.state)
        for name, value in _losses(logits, shares, chosen).items():
            _, out = tap(ctx, "/".join((*ctx.path, "router", name)), value, out)
        return y.reshape(x.shape), out

    return Model(init, forward=forward, name="experts")


def _losses(logits: Array, probabilities: Array, chosen: Array) -> dict[str, Array]:
    """What is reported of the routing, over all tokens: none of it changes y."""
    tokens, count = logits.shape
    hits = jax.nn.one_hot(chosen, count, dtype=logits.dtype).sum((0, 1))
    share = hits / max(chosen.size, 1)
    mean = probabilities.sum(0) / max(tokens, 1)
    z = jax.nn.logsumexp(logits, axis=-1)
    z_loss = jnp.sum(z * z) / max(tokens, 1)
    return {"balance_loss": count * (share * mean).sum(), "z_loss": z_loss, "share": share}


def _rank(chosen: Array, count: int) -> Array:
    """How many come before each choice at its expert: all first choices, then all second ones."""
    tokens, k = chosen.shape
    one_hot = jax.nn.one_hot(chosen.T.reshape(-1), count, dtype=jnp.int32)
    before = (jnp.cumsum(one_hot, axis=0, dtype=jnp.int32) * one_hot).sum(-1, dtype=jnp.int32)
    return before.reshape(k, tokens).T - 1


def _drawn(initializer: Initializer, key: Key, shape: tuple[int, int, int]) -> Array:
    """Each expert's weights drawn alone, so that its fan-in counts."""
    count, *one = shape
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
    return jax.lax.map(lambda key: initializer(key, tuple(one)), keys)
