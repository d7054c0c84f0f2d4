"""The laws of the design as functions: one line tests a layer of your own.

    nf.testing.check_model(make, x, numbers={"rate": (0.1, 0.4)})

`make(**numbers) -> Model` is the factory with its sizes filled in, x an input, numbers two values for
every number that the factory takes. A law that does not hold raises AssertionError, whose first words
name the law. `check_numbers` and `check_gradients` do the same for plain functions. Nothing here
needs a test framework.
"""

from nnfunc.calls import explain_calls
from nnfunc.testing.derivatives import check_gradients
from nnfunc.testing.law_case import Case
from nnfunc.testing.laws import LAWS, check_model
from nnfunc.testing.numbers import check_numbers

__all__ = ["LAWS", "Case", "check_gradients", "check_model", "check_numbers"]

explain_calls(__name__)
