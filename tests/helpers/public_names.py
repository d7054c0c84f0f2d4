"""The functions that users reach from `import nnfunc as nf`, by the path that they write."""

import inspect

from scripts.reference import public_names


def public_functions():
    """{"losses.mse": the function, ...}"""
    return {name: value for name, value in public_names().items() if inspect.isfunction(value)}
