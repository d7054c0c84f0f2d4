"""The cases: models of nnfunc and of plain JAX, batches, and nnfunc's bars."""

from functools import partial

import jax
import numpy as np
import optax

import nnfunc as nf

from .. import cases, plain
from ..cases import Case
from . import EPOCH_BATCH, RATE


def mlp() -> Case:
    return cases.mlp(256)._replace(bar=0.9)


def cnn() -> Case:
    model = nf.serial(
        conv_1=nf.conv(1, 32, 3),
        norm_1=nf.batch_norm(32),
        act_1=jax.nn.relu,
        pool_1=nf.max_pool(2),
        conv_2=nf.conv(32, 64, 3),
        norm_2=nf.batch_norm(64),
        act_2=jax.nn.relu,
        pool_2=nf.max_pool(2),
        flat=nf.flatten,
        head=nf.linear(7 * 7 * 64, 10),
    )

    def same(params):
        stages = [{"conv": params[f"conv_{i}"], "norm": params[f"norm_{i}"]} for i in (1, 2)]
        return {"stages": stages, "head": params["head"]}

    return Case(
        title="CNN of 32 and 64 3x3 filters with batch norm on 28x28, batch 64",
        bar=0.95,
        build=cases.classifier(model),
        batch=partial(cases.images, (28, 28, 1), 64),
        model=plain.cnn_with_norm,
        optimizer=optax.adam(RATE),
        same=same,
    )


def lstm() -> Case:
    return cases.lstm(time=64, batch=32)._replace(bar=0.9)


def gpt() -> Case:
    return cases.gpt()._replace(bar=0.85)


def epoch() -> Case:
    """One pass over MNIST with the MLP; a batch is here the whole training set."""

    def mnist():
        x, labels = nf.data.mnist().train
        return np.asarray(x, np.float32).reshape(len(x), -1) / 255, np.asarray(labels, np.int32)

    return cases.mlp(256)._replace(title="one epoch of MNIST, MLP 784-256-256-10, batch 128", bar=0.9, batch=mnist)


def epoch_data(arrays: tuple[np.ndarray, ...]) -> nf.data.Data:
    """The data set of `epoch`, or one of the same order."""
    return nf.data.arrays(arrays, batch_size=EPOCH_BATCH)


def epoch_order(count: int) -> np.ndarray:
    """The examples of each batch of an epoch, in the order that `nf.train` takes them: [steps, batch]."""
    data = epoch_data((np.arange(count), np.zeros(count)))
    steps = jax.numpy.arange(count // EPOCH_BATCH)
    return np.asarray(jax.jit(jax.vmap(lambda step: data.for_training().batch(step)[0]))(steps))


CASES = {"mlp": mlp, "cnn": cnn, "lstm": lstm, "gpt": gpt, "epoch": epoch}
