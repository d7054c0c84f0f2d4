"""`nnfunc sweep` and `nnfunc sweep-best`: many settings of a config."""

from nnfunc.commands.sweep.run_sweep import resume, sweep
from nnfunc.commands.sweep.sweep_best import sweep_best
from nnfunc.config.sweep.search_methods import parse_search_text
from nnfunc.config.sweep.study import is_sweep

__all__ = ["is_sweep", "parse_search_text", "resume", "sweep", "sweep_best"]
