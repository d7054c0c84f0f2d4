"""Equinox: models of one example under vmap, the leaves outside the step ("low-overhead training loops")."""

from functools import partial
from typing import Any

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp

from . import BLOCK, DIM, EPS, HEADS, LAYERS, ROWS, UNITS, VOCABULARY, Contender, blocks
from .optax_recipe import copies, mean_loss, optimizer

KEY = jax.random.key(0)  # of the parameters that are replaced


class MLP(eqx.Module):
    mlp: eqx.nn.MLP

    def __init__(self):
        self.mlp = eqx.nn.MLP(784, 10, 256, 2, key=KEY)

    def __call__(self, x, state):
        return self.mlp(x), state


class CNN(eqx.Module):
    convs: list
    norms: list
    pool: eqx.nn.MaxPool2d
    head: eqx.nn.Linear

    def __init__(self):
        self.convs = [eqx.nn.Conv2d(n, m, 3, padding=1, key=KEY) for n, m in ((1, 32), (32, 64))]
        norm = partial(eqx.nn.BatchNorm, axis_name="batch", eps=EPS, momentum=0.9, mode="batch")
        self.norms = [norm(32), norm(64)]
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.head = eqx.nn.Linear(7 * 7 * 64, 10, key=KEY)

    def __call__(self, x, state):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x, state = norm(conv(x), state)
            x = self.pool(jax.nn.relu(x))
        return self.head(x.ravel()), state


class LSTM(eqx.Module):
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self):
        self.cell = eqx.nn.LSTMCell(ROWS, UNITS, key=KEY)
        self.head = eqx.nn.Linear(UNITS, 10, key=KEY)

    def __call__(self, x, state):
        zeros = jnp.zeros(UNITS)
        (h, _), _ = jax.lax.scan(lambda carry, x: (self.cell(x, carry), None), (zeros, zeros), x)
        return self.head(h), state


class Block(eqx.Module):
    norm_1: eqx.nn.LayerNorm
    attend: eqx.nn.MultiheadAttention
    norm_2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self):
        self.norm_1, self.norm_2 = eqx.nn.LayerNorm(DIM, eps=EPS), eqx.nn.LayerNorm(DIM, eps=EPS)
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.attend = eqx.nn.MultiheadAttention(HEADS, DIM, **biases, key=KEY)
        self.up, self.down = (eqx.nn.Linear(n, m, key=KEY) for n, m in ((DIM, 4 * DIM), (4 * DIM, DIM)))

    def __call__(self, x, mask):
        y = jax.vmap(self.norm_1)(x)
        x = x + self.attend(y, y, y, mask=mask)
        y = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm_2)(x)), approximate=False)
        return x + jax.vmap(self.down)(y)


class GPT(eqx.Module):
    tokens: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    blocks: list
    norm: eqx.nn.LayerNorm

    def __init__(self):
        self.tokens, self.positions = (eqx.nn.Embedding(n, DIM, key=KEY) for n in (VOCABULARY, BLOCK))
        self.blocks = [Block() for _ in range(LAYERS)]
        self.norm = eqx.nn.LayerNorm(DIM, eps=EPS)

    def __call__(self, ids, state):
        x = jax.vmap(self.tokens)(ids) + jax.vmap(self.positions)(jnp.arange(len(ids)))
        mask = jnp.tril(jnp.ones((len(ids), len(ids)), bool))
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.norm)(x) @ self.tokens.weight.T, state


def contender(case: str, params: Any, batch: Any) -> Contender:
    module, replace = CASES[case]
    model, statistics = eqx.nn.make_with_state(module)()
    model = replace(model, params)
    x, labels = batch
    arrays = jax.device_put((x.transpose(0, 3, 1, 2) if case == "cnn" else x, labels))  # channels first
    optim = optimizer(case)
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten((weights, statistics, optim.init(weights)))

    @partial(jax.jit, donate_argnums=0)
    def train_step(leaves, batch):
        weights, statistics, opt_state = jax.tree.unflatten(treedef, leaves)
        x, labels = batch

        def loss_of(weights):
            model = eqx.combine(weights, static)
            apply = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            logits, state = apply(x, statistics)
            return mean_loss(logits, labels), state

        (loss, statistics), grads = eqx.filter_value_and_grad(loss_of, has_aux=True)(weights)
        updates, opt_state = optim.update(grads, opt_state, weights)
        return jax.tree.leaves((eqx.apply_updates(weights, updates), statistics, opt_state)), loss

    return Contender(copies(leaves), lambda leaves: train_step(leaves, arrays))


def load(module: Any, p: Any) -> Any:
    """A linear map of Equinox is [out, in]."""
    return eqx.tree_at(lambda m: (m.weight, m.bias), module, (jnp.asarray(p["weight"].T), jnp.asarray(p["bias"])))


def norm(module: Any, p: Any) -> Any:
    return eqx.tree_at(lambda m: (m.weight, m.bias), module, (jnp.asarray(p["scale"]), jnp.asarray(p["bias"])))


def mlp(model, p):
    layers = [p["hidden_0"]["linear"], p["hidden_1"]["linear"], p["head"]]
    loaded = tuple(load(layer, weights) for layer, weights in zip(model.mlp.layers, layers, strict=True))
    return eqx.tree_at(lambda m: m.mlp.layers, model, loaded)


def conv(module, p):
    weight, bias = jnp.asarray(p["weight"].transpose(3, 2, 0, 1)), jnp.asarray(p["bias"][:, None, None])
    return eqx.tree_at(lambda m: (m.weight, m.bias), module, (weight, bias))


def cnn(model, p):
    convs = [conv(layer, p[f"conv_{i}"]) for i, layer in enumerate(model.convs, 1)]
    norms = [norm(layer, p[f"norm_{i}"]) for i, layer in enumerate(model.norms, 1)]
    weight = p["head"]["weight"].reshape(7, 7, 64, 10).transpose(2, 0, 1, 3).reshape(-1, 10)  # channels first
    head = load(model.head, {**p["head"], "weight": weight})
    return eqx.tree_at(lambda m: (m.convs, m.norms, m.head), model, (convs, norms, head))


def lstm(model, p):
    cell = p["body"]["layer_0"]
    arrays = tuple(map(jnp.asarray, (cell["weight"].T, cell["recurrent_weight"].T, cell["bias"])))
    new = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias), model.cell, arrays)
    return eqx.tree_at(lambda m: (m.cell, m.head), model, (new, load(model.head, p["head"])))


def block(module, p):
    parts = lambda a: (a.query_proj, a.key_proj, a.value_proj, a.output_proj)
    projections = zip(parts(module.attend), ("query", "key", "value", "out"), strict=True)
    loaded = tuple(load(layer, p["attend"][name]) for layer, name in projections)
    layers = (
        norm(module.norm_1, p["attend_norm"]),
        eqx.tree_at(parts, module.attend, loaded),
        norm(module.norm_2, p["mlp_norm"]),
        load(module.up, p["mlp"]["up"]),
        load(module.down, p["mlp"]["down"]),
    )
    return eqx.tree_at(lambda m: (m.norm_1, m.attend, m.norm_2, m.up, m.down), module, layers)


def gpt(model, p):
    tables = tuple(jnp.asarray(p[name]["weight"]) for name in ("tokens", "positions"))
    loaded = [block(module, weights) for module, weights in zip(model.blocks, blocks(p), strict=True)]
    where = lambda m: (m.tokens.weight, m.positions.weight, m.blocks, m.norm)
    return eqx.tree_at(where, model, (*tables, loaded, norm(model.norm, p["norm"])))


CASES = {"mlp": (MLP, mlp), "cnn": (CNN, cnn), "lstm": (LSTM, lstm), "gpt": (GPT, gpt)}
