"""Sweeps from configs: the commands `nnfunc sweep` and `nnfunc sweep-best`, and their report."""

from nnfunc.commands.sweep.run_sweep import resume, sweep
from nnfunc.commands.sweep.sweep_best import best
from nnfunc.config.sweep.search_methods import parse_search_text
from nnfunc.config.sweep.sweep_config import is_sweep

__all__ = ["best", "is_sweep", "parse_search_text", "resume", "sweep"]
