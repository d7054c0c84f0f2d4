"""Plain JAX and optax, without a library of layers."""

from typing import Any

import jax
import optax

from .. import plain
from . import RATE, Contender, epochs
from .optax_recipe import copies


def contender(case: str, params: Any, batch: Any) -> Contender:
    from .models import CASES  # imports nnfunc, which `mlp` must not

    model = CASES[case]()
    params = jax.device_put(model.same(params))
    state = params, model.optimizer.init(params)
    if case == "cnn":
        step = plain.step_with_statistics(model.model, model.optimizer)
        state = *state, plain.initial_statistics(params)
    else:
        step = plain.step(model.model, model.optimizer)
    if case == "epoch":
        return epochs(copies(state), step, *batch)
    arrays = jax.device_put(batch)
    return Contender(copies(state), lambda state: step(state, arrays))


def mlp(case: str, params: Any, batch: Any) -> Contender:
    """The case `mlp` in a process that never imports nnfunc."""
    params = [params["hidden_0"]["linear"], params["hidden_1"]["linear"], params["head"]]
    params, arrays = jax.device_put((params, batch))
    optimizer = optax.adam(RATE)
    step = plain.step(plain.mlp, optimizer)
    return Contender(copies((params, optimizer.init(params))), lambda state: step(state, arrays))
