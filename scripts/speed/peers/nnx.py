"""Flax NNX: split and merge around jax.jit, which its guide to performance has for small models."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx  # pyright: ignore[reportMissingImports]

from . import BLOCK, DIM, EPS, HEADS, ROWS, UNITS, VOCABULARY, Contender, blocks
from .optax_recipe import copies, mean_loss, optimizer


class MLP(nnx.Module):
    def __init__(self, p, rngs):
        layers = [p["hidden_0"]["linear"], p["hidden_1"]["linear"], p["head"]]
        self.layers = nnx.List([linear(layer, rngs) for layer in layers])

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class CNN(nnx.Module):
    def __init__(self, p, rngs):
        convs = [nnx.Conv(1, 32, (3, 3), rngs=rngs), nnx.Conv(32, 64, (3, 3), rngs=rngs)]
        self.convs = nnx.List([load(conv, p[f"conv_{i}"]) for i, conv in enumerate(convs, 1)])
        norm = partial(nnx.BatchNorm, use_running_average=False, momentum=0.9, epsilon=EPS, rngs=rngs)
        self.norms = nnx.List([load(norm(width), p[f"norm_{i}"]) for i, width in enumerate((32, 64), 1)])
        self.head = linear(p["head"], rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), strides=(2, 2))
        return self.head(x.reshape(x.shape[0], -1))


class LSTM(nnx.Module):
    def __init__(self, p, rngs):
        cell, weights = nnx.OptimizedLSTMCell(ROWS, UNITS, rngs=rngs), p["body"]["layer_0"]
        load(cell.dense_i, {"weight": weights["weight"]})
        load(cell.dense_h, {"weight": weights["recurrent_weight"], "bias": weights["bias"]})
        self.rnn = nnx.RNN(cell, return_carry=True, rngs=rngs)
        self.head = linear(p["head"], rngs)

    def __call__(self, x):
        (_, h), _ = self.rnn(x)
        return self.head(h)


class Block(nnx.Module):
    def __init__(self, p, rngs):
        norm = partial(nnx.LayerNorm, DIM, epsilon=EPS, rngs=rngs)
        self.norm_1, self.norm_2 = load(norm(), p["attend_norm"]), load(norm(), p["mlp_norm"])
        self.attend = nnx.MultiHeadAttention(HEADS, DIM, decode=False, rngs=rngs)
        for name in ("query", "key", "value", "out"):
            load(getattr(self.attend, name), p["attend"][name])
        self.up, self.down = linear(p["mlp"]["up"], rngs), linear(p["mlp"]["down"], rngs)

    def __call__(self, x, mask):
        x = x + self.attend(self.norm_1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm_2(x)), approximate=False))


class GPT(nnx.Module):
    def __init__(self, p, rngs):
        self.tokens = load(nnx.Embed(VOCABULARY, DIM, rngs=rngs), {"embedding": p["tokens"]["weight"]})
        self.positions = load(nnx.Embed(BLOCK, DIM, rngs=rngs), {"embedding": p["positions"]["weight"]})
        self.blocks = nnx.List([Block(block, rngs) for block in blocks(p)])
        self.norm = load(nnx.LayerNorm(DIM, epsilon=EPS, rngs=rngs), p["norm"])

    def __call__(self, ids):
        x = self.tokens(ids) + self.positions(jnp.arange(ids.shape[1]))
        mask = nnx.make_causal_mask(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.tokens.attend(self.norm(x))


def linear(p: Any, rngs: Any) -> Any:
    return load(nnx.Linear(*p["weight"].shape, rngs=rngs), p)


def load(module: Any, p: Any) -> Any:
    """Replace the parameters of a module; those of attention have the heads as an axis."""
    for name, array in p.items():
        name = "kernel" if name == "weight" else name
        shape = getattr(module, name).shape
        setattr(module, name, nnx.Param(jnp.asarray(array.reshape(shape))))
    return module


def contender(case: str, params: Any, batch: Any) -> Contender:
    arrays = jax.device_put(batch)
    model = CASES[case](params, nnx.Rngs(0))
    graphdef, state = nnx.split((model, nnx.Optimizer(model, optimizer(case), wrt=nnx.Param)))

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        x, labels = batch
        model, optimizer = nnx.merge(graphdef, state)
        loss, grads = nnx.value_and_grad(lambda model: mean_loss(model(x), labels))(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    return Contender(copies(state), lambda state: train_step(state, arrays))


CASES = {"mlp": MLP, "cnn": CNN, "lstm": LSTM, "gpt": GPT}
