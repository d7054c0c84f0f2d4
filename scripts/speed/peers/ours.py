"""The step of `nf.train`: with metrics, the gradient's norm, and a guard against non-finite values."""

from typing import Any

import jax

from nnfunc.malloc import keep_memory

from ..cases import trained
from . import Contender, Unavailable
from .models import CASES


def contender(case: str, params: Any, batch: Any) -> Contender:
    """The parameters are those of the file, because both are of key 0."""
    side, arrays = trained(CASES[case]()), jax.device_put(batch)
    return Contender(side.init, lambda state: side.step(state, arrays))


def tuned(case: str, params: Any, batch: Any) -> Contender:
    if not keep_memory():
        raise Unavailable("nf.keep_memory needs Linux with glibc")
    return contender(case, params, batch)
