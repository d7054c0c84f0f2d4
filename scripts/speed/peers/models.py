"""The cases: models of nnfunc and of plain JAX, batches, and nnfunc's bars."""

from functools import partial

import jax
import optax

import nnfunc as nf

from .. import cases, plain
from ..cases import Case
from . import RATE


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


CASES = {"mlp": mlp, "cnn": cnn, "lstm": lstm, "gpt": gpt}
