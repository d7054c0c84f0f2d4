"""Sweeps: many whole training runs in few compiled programs, and a table of them."""

from nnfunc.sweeps.asking import optuna
from nnfunc.sweeps.ensemble import Ensemble, ensemble_from
from nnfunc.sweeps.halving import halving, hyperband, patience
from nnfunc.sweeps.jobs import Jobs, processes, ray, submitit, through
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.population import population
from nnfunc.sweeps.progress import Progress
from nnfunc.sweeps.result import Member, Result, Table
from nnfunc.sweeps.run import Search, everything, sweep, sweep_plan
from nnfunc.sweeps.space import Distribution, choice, int_uniform, log_uniform, uniform

__all__ = [
    "Distribution", "Ensemble", "Jobs", "Member", "Plan", "Progress", "Result", "Search", "Table",
    "choice", "ensemble_from", "everything", "halving", "hyperband", "int_uniform", "log_uniform",
    "optuna", "patience", "population", "processes", "ray", "submitit", "sweep", "sweep_plan",
    "through", "uniform",
]  # fmt: skip
