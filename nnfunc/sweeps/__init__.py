"""Sweeps: many whole training runs in few compiled programs, and a table of them."""

from nnfunc.calls import explain_calls
from nnfunc.sweeps.ensemble import Ensemble, ensemble_from
from nnfunc.sweeps.executors import Jobs, processes, ray, submitit, through
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.progress import Progress
from nnfunc.sweeps.result import Result, Trial
from nnfunc.sweeps.result_table import Table
from nnfunc.sweeps.search.halving import halving, hyperband
from nnfunc.sweeps.search.optuna_search import optuna
from nnfunc.sweeps.search.patience import patience
from nnfunc.sweeps.search.population import population
from nnfunc.sweeps.space import Distribution, choice, int_uniform, log_uniform, uniform
from nnfunc.sweeps.sweep import Search, everything, sweep, sweep_plan

__all__ = [
    "Distribution",
    "Ensemble",
    "Jobs",
    "Plan",
    "Progress",
    "Result",
    "Search",
    "Table",
    "Trial",
    "choice",
    "ensemble_from",
    "everything",
    "halving",
    "hyperband",
    "int_uniform",
    "log_uniform",
    "optuna",
    "patience",
    "population",
    "processes",
    "ray",
    "submitit",
    "sweep",
    "sweep_plan",
    "through",
    "uniform",
]

explain_calls(__name__)
