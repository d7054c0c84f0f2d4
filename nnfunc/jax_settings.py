"""JAX's settings, which a `with` changes for one thread alone, in the threads that work for it.

`with jax.enable_x64(True)`, `jax.threefry_partitionable(False)`, `jax.debug_nans(True)` and the like
hold in the thread that enters them. A thread that computes a part of its result enters them too.
"""

import enum
import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax

Settings = tuple[tuple[str, Any], ...]


@functools.cache
def _names() -> tuple[str, ...]:
    """What both `jax.NAME(value)` and `jax.config.jax_NAME` exist for, so that it may differ by thread.

    `transfer_guard` sets three others, which are in the list; `thread_guard` is for one thread only.
    """
    names = (name.removeprefix("jax_") for name in jax.config.values if name.startswith("jax_"))
    apart = ("transfer_guard", "thread_guard")
    return tuple(name for name in names if name not in apart and callable(getattr(jax, name, None)))


def current_settings() -> Settings:
    """(name, value) of each setting as it is in this thread."""
    values = ((name, getattr(jax.config, f"jax_{name}")) for name in _names())
    return tuple((name, v.value if isinstance(v, enum.Enum) else v) for name, v in values)


def enter_settings(settings: Settings) -> ExitStack:
    """A context in which this thread has these settings, those of them that it does not have yet."""
    known = dict(current_settings())
    with ExitStack() as stack:
        for name, value in settings:
            if known.get(name) != value:
                stack.enter_context(getattr(jax, name)(value))
        return stack.pop_all()


def inherit_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which has the settings of the thread that calls `inherited` in whatever thread."""
    settings = current_settings()

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        with enter_settings(settings):
            return function(*args, **options)

    return run


def portable_settings() -> Settings:
    """The settings that another process can take over: plain values, so not a device."""
    return tuple((n, v) for n, v in current_settings() if v is None or isinstance(v, bool | int | str))
