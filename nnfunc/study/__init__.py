"""Sweeps from configs: the commands `nnfunc sweep` and `nnfunc sweep-best`, and their report."""

from nnfunc.study.run import resume, sweep
from nnfunc.study.searching import from_text
from nnfunc.study.setup import is_sweep
from nnfunc.study.winner import best

__all__ = ["best", "from_text", "is_sweep", "resume", "sweep"]
