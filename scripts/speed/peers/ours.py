"""The step of `nf.train`: with metrics, the gradient's norm, and a guard against non-finite values."""

from typing import Any

import jax

import nnfunc as nf
from nnfunc.malloc import keep_memory

from ..cases import trained
from . import RATE, Contender, Unavailable
from .models import CASES, epoch_data


def contender(case: str, params: Any, batch: Any) -> Contender:
    """The parameters are those of the file, because both are of key 0."""
    if case == "epoch":
        return epoch(params, batch)
    side, arrays = trained(CASES[case]()), jax.device_put(batch)
    return Contender(side.init, lambda state: side.step(state, arrays))


def epoch(params: Any, batch: Any) -> Contender:
    """A call of `nf.train` for each epoch."""
    x, labels, order = batch
    data, build, params = epoch_data((x, labels)), CASES["epoch"]().build, jax.device_put(params)
    every: dict[str, Any] = {"steps": len(order), "log_every": len(order)}

    def step(state: Any) -> tuple[Any, float]:
        state, history = nf.train(build, {"lr": RATE}, data, key=jax.random.key(0), params=params, **every)
        return state, history.train["loss"][-1]

    return Contender(lambda: None, step)


def tuned(case: str, params: Any, batch: Any) -> Contender:
    if not keep_memory():
        raise Unavailable("nf.keep_memory needs Linux with glibc")
    return contender(case, params, batch)
