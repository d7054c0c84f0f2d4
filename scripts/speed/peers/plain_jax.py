"""Plain JAX and optax, without a library of layers."""

from typing import Any

import jax

from .. import plain
from . import Contender
from .models import CASES
from .optax_recipe import copies


def contender(case: str, params: Any, batch: Any) -> Contender:
    model = CASES[case]()
    params, arrays = jax.device_put((model.same(params), batch))
    state = params, model.optimizer.init(params)
    if case == "cnn":
        step = plain.step_with_statistics(model.model, model.optimizer)
        state = *state, plain.initial_statistics(params)
    else:
        step = plain.step(model.model, model.optimizer)
    return Contender(copies(state), lambda state: step(state, arrays))
