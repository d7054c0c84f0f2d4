"""Sweeps: many whole training runs in few compiled programs, and a table of them."""

from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.result import Member, Result, Table
from nnfunc.sweeps.run import Progress, sweep, sweep_plan
from nnfunc.sweeps.space import Distribution, choice, int_uniform, log_uniform, uniform

__all__ = [
    "Distribution", "Member", "Plan", "Progress", "Result", "Table", "choice", "int_uniform",
    "log_uniform", "sweep", "sweep_plan", "uniform",
]  # fmt: skip
