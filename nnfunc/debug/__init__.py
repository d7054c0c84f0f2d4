"""Debugging tools, for runs that do not train as they should.

    nf.debug.overfit(build, hypers, data, key=key)    can the model memorise one batch? if not, why
    nf.debug.find_lr(build, hypers, data, key=key)    a learning rate, from 64 short runs at once
    nf.debug.doctor(build, hypers, data, key=key)     checks for the usual mistakes, each with a hint
    nf.debug.find_nan(build, hypers, state, data)     the step and layer of the first NaN or infinity

They take the arguments of `nf.train`, so they work with every model, objective and optimizer.
"""

from nnfunc.calls import explain_calls
from nnfunc.debug.doctor import doctor
from nnfunc.debug.find_nan import find_nan, find_nan_in
from nnfunc.debug.finding import Finding
from nnfunc.debug.lr_finder import RangeTest, find_lr
from nnfunc.debug.overfit import Verdict, overfit
from nnfunc.training.divergence import Fault

__all__ = ["Fault", "Finding", "RangeTest", "Verdict", "doctor", "find_lr", "find_nan", "find_nan_in", "overfit"]

explain_calls(__name__)
