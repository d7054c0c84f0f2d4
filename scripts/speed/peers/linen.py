"""Flax Linen: compact modules, and a TrainState with the statistics of batch norm."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn  # pyright: ignore[reportMissingImports]
from flax.training import train_state  # pyright: ignore[reportMissingImports]

from . import BLOCK, DIM, EPOCH_BATCH, EPS, HEADS, LAYERS, UNITS, VOCABULARY, Contender, blocks, epochs
from .optax_recipe import copies, mean_loss, optimizer


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (256, 256):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (32, 64):
            x = nn.Conv(width, (3, 3))(x)
            x = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=EPS)(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class LSTM(nn.Module):
    @nn.compact
    def __call__(self, x):
        (_, h), _ = nn.RNN(nn.OptimizedLSTMCell(UNITS, name="cell"), return_carry=True)(x)
        return nn.Dense(10)(h)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        y = nn.LayerNorm(epsilon=EPS)(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attend")(y, mask=mask)
        y = nn.Dense(4 * DIM)(nn.LayerNorm(epsilon=EPS)(x))
        return x + nn.Dense(DIM)(nn.gelu(y, approximate=False))


class GPT(nn.Module):
    @nn.compact
    def __call__(self, ids):
        tokens = nn.Embed(VOCABULARY, DIM, name="tokens")
        x = tokens(ids) + nn.Embed(BLOCK, DIM, name="positions")(jnp.arange(ids.shape[1]))
        mask = nn.make_causal_mask(ids)
        for _ in range(LAYERS):
            x = Block()(x, mask)
        return tokens.attend(nn.LayerNorm(epsilon=EPS)(x))


class TrainState(train_state.TrainState):
    statistics: Any  # {"batch_stats": ...}, or nothing


def contender(case: str, params: Any, batch: Any) -> Contender:
    module, weights = CASES[case]
    model = module()
    variables = model.init(jax.random.key(0), batch[0][:EPOCH_BATCH])
    variables.pop("params")
    state = TrainState.create(
        apply_fn=model.apply, params=jax.device_put(weights(params)), tx=optimizer(case), statistics=variables
    )

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        x, labels = batch

        def loss_of(params):
            variables = {"params": params, **state.statistics}
            logits, updates = state.apply_fn(variables, x, mutable=["batch_stats"])
            return mean_loss(logits, labels), updates

        (loss, updates), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, statistics=updates), loss

    if case == "epoch":
        return epochs(copies(state), train_step, *batch)
    arrays = jax.device_put(batch)
    return Contender(copies(state), lambda state: train_step(state, arrays))


def dense(p):
    return {"kernel": p["weight"], "bias": p["bias"]}


def mlp(p):
    hidden = [p["hidden_0"]["linear"], p["hidden_1"]["linear"], p["head"]]
    return {f"Dense_{i}": dense(layer) for i, layer in enumerate(hidden)}


def cnn(p):
    convs = {f"Conv_{i}": dense(p[f"conv_{i + 1}"]) for i in range(2)}
    norms = {f"BatchNorm_{i}": p[f"norm_{i + 1}"] for i in range(2)}
    return {**convs, **norms, "Dense_0": dense(p["head"])}


def lstm(p):
    """A gate has matrices of its own; the bias is with the recurrent one."""
    cell, parts = p["body"]["layer_0"], {}
    for i, gate in enumerate("ifgo"):
        columns = slice(i * UNITS, (i + 1) * UNITS)
        parts[f"i{gate}"] = {"kernel": cell["weight"][:, columns]}
        parts[f"h{gate}"] = {"kernel": cell["recurrent_weight"][:, columns], "bias": cell["bias"][columns]}
    return {"cell": parts, "Dense_0": dense(p["head"])}


def attention(p):
    """Heads are an axis: the kernels are [dim, heads, head_dim], and of `out` [heads, head_dim, dim]."""
    split = lambda array: array.reshape(*array.shape[:-1], HEADS, DIM // HEADS)
    parts = {name: jax.tree.map(split, dense(p[name])) for name in ("query", "key", "value")}
    out = {"kernel": p["out"]["weight"].reshape(HEADS, DIM // HEADS, DIM), "bias": p["out"]["bias"]}
    return {**parts, "out": out}


def gpt(p):
    weights = {name: {"embedding": p[name]["weight"]} for name in ("tokens", "positions")}
    weights["LayerNorm_0"] = p["norm"]
    for i, block in enumerate(blocks(p)):
        weights[f"Block_{i}"] = {
            "LayerNorm_0": block["attend_norm"],
            "attend": attention(block["attend"]),
            "LayerNorm_1": block["mlp_norm"],
            "Dense_0": dense(block["mlp"]["up"]),
            "Dense_1": dense(block["mlp"]["down"]),
        }
    return weights


CASES = {"mlp": (MLP, mlp), "cnn": (CNN, cnn), "lstm": (LSTM, lstm), "gpt": (GPT, gpt), "epoch": (MLP, mlp)}
