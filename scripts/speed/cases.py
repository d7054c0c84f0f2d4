"""The models of the comparison, each twice: of nnfunc, and in plain JAX with the same parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nnfunc as nf
from nnfunc.training.gradients import loss_and_metrics

from . import plain

RATE = 1e-3


class Case(NamedTuple):
    """build: hypers -> Task. batch: () -> (x, labels) as numpy arrays, or their shapes.

    model, optimizer: in plain JAX. same: nnfunc's parameters -> those of the plain model.
    bar: the most that nnfunc's time may be, as a share of the plain model's; None for no bar.
    """

    title: str
    bar: float | None
    build: Callable[[Any], nf.Task]
    batch: Callable[[], tuple[np.ndarray, np.ndarray]]
    model: Callable[..., Any]
    optimizer: optax.GradientTransformation
    same: Callable[[Any], Any]


class Side(NamedTuple):
    """One train step, jitted with the state donated: step(state, batch) -> (state, loss)."""

    step: Any
    init: Callable[[], Any]


def images(shape: tuple[int, ...], batch: int = 128) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.uniform(size=(batch, *shape)).astype(np.float32)
    return x, draw.integers(0, 10, batch).astype(np.int32)


def tokens(batch: int, time: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 65, (batch, time + 1)).astype(np.int32)
    return ids[:, :-1], ids[:, 1:]


def classifier(model: nf.Model) -> Callable[[Any], nf.Task]:
    return lambda h: nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]))


def mlp(dim: int = 512, in_dim: int = 784, batch: int = 128) -> Case:
    def same(params):
        return [params["hidden_0"]["linear"], params["hidden_1"]["linear"], params["head"]]

    return Case(
        title=f"MLP {in_dim}-{dim}-{dim}-10, batch {batch}",
        bar=1.0,
        build=classifier(nf.mlp([in_dim, dim, dim, 10])),
        batch=partial(images, (in_dim,), batch),
        model=plain.mlp,
        optimizer=optax.adam(RATE),
        same=same,
    )


def cnn() -> Case:
    model = nf.serial(
        conv_1=nf.conv(1, 32, 3),
        act_1=jax.nn.relu,
        pool_1=nf.max_pool(2),
        conv_2=nf.conv(32, 64, 3),
        act_2=jax.nn.relu,
        pool_2=nf.max_pool(2),
        flat=nf.flatten,
        hidden=nf.linear(7 * 7 * 64, 128),
        act=jax.nn.relu,
        head=nf.linear(128, 10),
    )

    def same(params):
        convs = [params["conv_1"], params["conv_2"]]
        return {"convs": convs, "hidden": params["hidden"], "head": params["head"]}

    return Case(
        title="CNN of 32 and 64 3x3 filters and 128 units on 28x28, batch 128",
        bar=0.65,
        build=classifier(model),
        batch=partial(images, (28, 28, 1)),
        model=plain.cnn,
        optimizer=optax.adam(RATE),
        same=same,
    )


def lstm(time: int = 28, batch: int = 128) -> Case:
    def same(params):
        own = params["body"]["layer_0"]
        names = {"input": "weight", "hidden": "recurrent_weight", "bias": "bias"}
        cell = {name: own[its] for name, its in names.items()}
        return {"cell": cell, "head": params["head"]}

    return Case(
        title=f"LSTM of 128 on {time} rows of 28, batch {batch}",
        bar=0.65,
        build=classifier(nf.rnn_classifier(28, 10, dim=128, cell="lstm")),
        batch=partial(images, (time, 28), batch),
        model=plain.lstm,
        optimizer=optax.adam(RATE),
        same=same,
    )


def gpt(layers=4, heads=4, dim=128, time=64, batch=12, recipe="CPU", unroll=4) -> Case:
    """nanoGPT's recipe for a CPU on the characters of Shakespeare; plain JAX writes out all layers."""

    def build(h):
        shape = partial(nf.gpt, 65, block_size=time, layers=layers, heads=heads, dim=dim)
        model = shape(activation="gelu", unroll=unroll)
        optimizer = nf.optimizers.adamw(h["lr"], b2=0.99, weight_decay=0.1, clip=1.0)
        return nf.Task(model, nf.language_modelling(), optimizer)

    def same(params):
        def layer(p):
            heads = [p["attend"][name] for name in ("query", "key", "value")]
            joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *heads)
            return {
                "norm_1": p["attend_norm"],
                "attention": {"qkv": joined, "out": p["attend"]["out"]},
                "norm_2": p["mlp_norm"],
                "up": p["mlp"]["up"],
                "down": p["mlp"]["down"],
            }

        stacked = params["blocks"]
        one = lambda i: jax.tree.map(lambda leaf: leaf[i], stacked)
        blocks = [layer(one(i)) for i in range(layers)]
        tables = {name: params[name]["weight"] for name in ("tokens", "positions")}
        return {**tables, "blocks": blocks, "norm": params["norm"]}

    return Case(
        title=f"GPT of nanoGPT's {recipe} recipe: {layers} layers, {heads} heads, {dim} wide, "
        f"block {time}, batch {batch}",
        bar=0.75 if recipe == "CPU" else None,
        build=build,
        batch=partial(tokens, batch, time),
        model=partial(plain.gpt, heads),
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(RATE, b2=0.99, weight_decay=0.1, mask=matrices)
        ),
        same=same,
    )


def matrices(params):
    """Weight decay is for weights and tables, as in nanoGPT."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lstm,
    "gpt": gpt,
    "tiny": partial(mlp, 4, 4, 4),
    "gpt_gpu": partial(gpt, 6, 6, 384, 256, 64, recipe="GPU"),
}
"""By name. `tiny` has so little arithmetic that it measures the dispatch of a step."""


def ours(case: Case) -> Side:
    """nnfunc's model and optimizer in the loop that plain JAX has: the gradient, then the update."""

    def train_step(state, batch):
        params, model_state, opt_state = state
        task = case.build({"lr": np.float32(RATE)})

        def loss_of(params):
            return loss_and_metrics(task, params, model_state, batch, key=None, train=True)

        (loss, (_, kept)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = task.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), kept, opt_state), loss

    def init():
        state = trained(case).init()
        return state.params, state.model_state, state.opt_state

    return Side(jax.jit(train_step, donate_argnums=0), init)


def trained(case: Case) -> Side:
    """The step that `nf.train` runs: with metrics, the gradient's norm, and its guard."""
    init, step = nf.trainer(case.build)
    hypers = {"lr": np.float32(RATE)}

    def train_step(state, batch):
        state, metrics = step(hypers, state, batch)
        return state, metrics["loss"]

    make = jax.jit(lambda: init(hypers, jax.random.key(0)))
    return Side(jax.jit(train_step, donate_argnums=0), make)


def theirs(case: Case) -> Side:
    """The same in plain JAX, from the same parameters."""

    def init():
        params = jax.jit(case.same)(trained(case).init().params)
        return params, case.optimizer.init(params)

    return Side(plain.step(case.model, case.optimizer), init)
