"""The data and the initial parameters that the debugging tools work on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check, device_memory
from nnfunc.base import Key, Params, PyTree, as_model, fold
from nnfunc.data.generated import GeneratedData
from nnfunc.training.device_feed import as_data
from nnfunc.training.task import build_task


def without_augmentation(data: Any, max_batch_size: int | None = None) -> Any:
    """The data set without its augmentation, in batches of at most `max_batch_size` examples."""
    data = as_data(data, "debug")
    if isinstance(data, GeneratedData):  # the checks of the data look at more than the batch of step 0
        data = dataclasses.replace(data, arrays=data.sample())
    size = data.batch_size if max_batch_size is None else min(max_batch_size, data.size)
    return dataclasses.replace(data, augment=None, batch_size=size)


def init_params(build: Callable[..., Any], hypers: Any, key: Key) -> tuple[Params, PyTree]:
    """The parameters and the model state with which `nf.train(build, hypers, ..., key=key)` starts."""
    check.key("debug", key)

    def init(key):
        model = as_model(build_task(build, hypers, 0).model)
        return model.init(fold(key, "init")), jax.tree.map(jnp.asarray, model.init_state(fold(key, "init_state")))

    device_memory.check_params("debug", jax.eval_shape(init, key))
    return jax.jit(init)(key)
