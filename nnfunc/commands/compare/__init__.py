"""`nnfunc compare`: several models on the same data, with several seeds."""

from nnfunc.commands.compare.comparison_plan import load_plan
from nnfunc.commands.compare.run_comparison import compare

__all__ = ["compare", "load_plan"]
