"""Train several models on the same data, with seeds, and say how they differ."""

from nnfunc.commands.compare.comparison_plan import Plan, Run, load
from nnfunc.commands.compare.run_comparison import compare

__all__ = ["Plan", "Run", "compare", "load"]
