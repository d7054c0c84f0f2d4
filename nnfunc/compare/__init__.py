"""Train several models on the same data, with seeds, and say how they differ."""

from nnfunc.compare.plan import Plan, Run, load
from nnfunc.compare.run import compare

__all__ = ["Plan", "Run", "compare", "load"]
