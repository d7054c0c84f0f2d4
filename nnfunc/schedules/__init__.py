"""Schedules: functions of the 0-based step, for the learning rate or for any other number.

Every number, step counts too, may be traced. The step is a Python int, or an array of integers or
floats of any shape, traced or not; steps below 0 count as step 0, and past its end a schedule keeps
its last value. Values come in JAX's own float: float32, or float64 under jax_enable_x64. A part
that lasts 0 steps is switched off, without a 0 / 0 in values or gradients.
"""

from nnfunc.calls import explain_calls
from nnfunc.schedules.composition import as_schedule, by_epoch, constant, join
from nnfunc.schedules.decay import cosine, cosine_restarts, cyclic, exponential, linear, multistep, polynomial, step
from nnfunc.schedules.plateau_schedule import Plateau, PlateauState, plateau
from nnfunc.schedules.warmup_schedules import (
    inverse_sqrt,
    one_cycle,
    warmup,
    warmup_cosine,
    warmup_linear,
    warmup_stable_decay,
)

__all__ = [
    "Plateau",
    "PlateauState",
    "as_schedule",
    "by_epoch",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear",
    "multistep",
    "one_cycle",
    "plateau",
    "polynomial",
    "step",
    "warmup",
    "warmup_cosine",
    "warmup_linear",
    "warmup_stable_decay",
]

explain_calls(__name__)
