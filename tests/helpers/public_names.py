"""Every public name, by the path that users write: `nf.losses.mse` is "losses.mse"."""

import inspect
from types import ModuleType

import nnfunc as nf


def public_names():
    """{"losses.mse": the function}, of every namespace in `nf`."""
    names = {}
    for name in nf.__all__:
        value = getattr(nf, name)
        if isinstance(value, ModuleType):
            names |= {f"{name}.{inner}": getattr(value, inner) for inner in value.__all__}
        else:
            names[name] = value
    return names


def public_functions():
    return {name: value for name, value in public_names().items() if inspect.isfunction(value)}
