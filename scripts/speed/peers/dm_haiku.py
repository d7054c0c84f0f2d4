"""Haiku: functions under hk.transform_with_state."""

from functools import partial
from typing import Any

import haiku as hk  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import BLOCK, DIM, EPS, HEADS, LAYERS, ROWS, UNITS, VOCABULARY, Contender, blocks
from .optax_recipe import copies, mean_loss, optimizer


def mlp(x):
    return hk.nets.MLP([256, 256, 10], name="mlp")(x)


def cnn(x):
    for i, width in enumerate((32, 64), 1):
        x = hk.Conv2D(width, 3, name=f"conv_{i}")(x)
        x = hk.BatchNorm(True, True, decay_rate=0.9, eps=EPS, name=f"norm_{i}")(x, is_training=True)
        x = hk.max_pool(jax.nn.relu(x), 2, 2, "VALID")
    return hk.Linear(10, name="head")(hk.Flatten()(x))


def lstm(x):
    core = hk.LSTM(UNITS, name="lstm")
    _, state = hk.dynamic_unroll(core, x.swapaxes(0, 1), core.initial_state(x.shape[0]))  # [time, batch, rows]
    return hk.Linear(10, name="head")(state.hidden)


def gpt(ids):
    table = hk.Embed(VOCABULARY, DIM, name="tokens")
    x = table(ids) + hk.Embed(BLOCK, DIM, name="positions")(jnp.arange(ids.shape[1]))
    mask = jnp.tril(jnp.ones((1, 1, ids.shape[1], ids.shape[1]), bool))
    norm = partial(hk.LayerNorm, axis=-1, create_scale=True, create_offset=True, eps=EPS)
    init = hk.initializers.VarianceScaling()
    for i in range(LAYERS):
        y = norm(name=f"attend_norm_{i}")(x)
        attend = hk.MultiHeadAttention(HEADS, DIM // HEADS, w_init=init, model_size=DIM, name=f"attend_{i}")
        x = x + attend(y, y, y, mask=mask)
        y = hk.Linear(4 * DIM, name=f"up_{i}")(norm(name=f"mlp_norm_{i}")(x))
        x = x + hk.Linear(DIM, name=f"down_{i}")(jax.nn.gelu(y, approximate=False))
    return norm(name="norm")(x) @ table.embeddings.T


def contender(case: str, params: Any, batch: Any) -> Contender:
    function, weights = CASES[case]
    arrays, optim = jax.device_put(batch), optimizer(case)
    model = hk.transform_with_state(function)
    initial, statistics = model.init(jax.random.key(0), arrays[0])
    reshape = lambda old, new: jnp.asarray(new.reshape(old.shape))  # batch norm's are [1, 1, 1, channels]
    loaded = jax.tree.map(reshape, initial, weights(params))

    @partial(jax.jit, donate_argnums=0)
    def train_step(train_state, batch):
        params, statistics, opt_state = train_state
        x, labels = batch

        def loss_of(params):
            logits, state = model.apply(params, statistics, None, x)
            return mean_loss(logits, labels), state

        (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optim.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), loss

    state = loaded, statistics, optim.init(loaded)
    return Contender(copies(state), lambda state: train_step(state, arrays))


def linear(p):
    return {"w": p["weight"], "b": p["bias"]}


def norm(p):
    return {"scale": p["scale"], "offset": p["bias"]}


def mlp_weights(p):
    layers = [p["hidden_0"]["linear"], p["hidden_1"]["linear"], p["head"]]
    return {f"mlp/~/linear_{i}": linear(layer) for i, layer in enumerate(layers)}


def cnn_weights(p):
    convs = {f"conv_{i}": linear(p[f"conv_{i}"]) for i in (1, 2)}
    return {**convs, **{f"norm_{i}": norm(p[f"norm_{i}"]) for i in (1, 2)}, "head": linear(p["head"])}


def lstm_weights(p):
    """One matrix for [input, hidden], gates in the order i, g, f, o, and 1 is added to f's input."""
    cell = p["body"]["layer_0"]
    joined = np.concatenate([cell["weight"], cell["recurrent_weight"], cell["bias"][None]])
    i, f, g, o = np.split(joined, 4, axis=1)
    all_rows = np.concatenate([i, g, f, o], axis=1)
    bias = all_rows[ROWS + UNITS]
    bias[2 * UNITS : 3 * UNITS] -= 1
    return {"lstm/linear": {"w": all_rows[: ROWS + UNITS], "b": bias}, "head": linear(p["head"])}


def gpt_weights(p):
    weights = {name: {"embeddings": p[name]["weight"]} for name in ("tokens", "positions")}
    weights["norm"] = norm(p["norm"])
    for i, block in enumerate(blocks(p)):
        projections = {"query": "query", "key": "key", "value": "value", "linear": "out"}
        for theirs, ours in projections.items():
            weights[f"attend_{i}/{theirs}"] = linear(block["attend"][ours])
        for name in ("attend_norm", "mlp_norm"):
            weights[f"{name}_{i}"] = norm(block[name])
        for name in ("up", "down"):
            weights[f"{name}_{i}"] = linear(block["mlp"][name])
    return weights


CASES = {"mlp": (mlp, mlp_weights), "cnn": (cnn, cnn_weights), "lstm": (lstm, lstm_weights), "gpt": (gpt, gpt_weights)}
