"""Sweeps from configs: the commands `nnfunc sweep` and `nnfunc sweep-best`, and their report."""

from nnfunc.study.run import best, is_sweep, resume, sweep
from nnfunc.study.searching import from_text

__all__ = ["best", "from_text", "is_sweep", "resume", "sweep"]
