"""Which form of an operation a program is traced with, where several forms compute the same values.

The forms that are pinned come first (`pinned`): `nf.train` pins those that the run began with, or for a new run
those that `nnfunc tune` has measured on this machine. Any other choice is that of the operation's default. What is
pinned is a part of the key of `jax.jit`, so no program that was compiled with other forms is used.
"""

import json
import os
import platform as host
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxlib.version import __version__ as JAXLIB

from nnfunc import documents, user_cache, xla_flags

SWITCH = "NNFUNC_TUNING"
"""The environment variable that is "off" where no measured form should be used."""

TABLE = {str: {str: {"form": str, "seconds?": {str: float}}}}
"""The measured table: jaxlib's version and the processor -> key -> the fastest form, and the seconds of each."""

_pins = jax.make_user_context(default_value=())
"""The pinned forms: pairs (key, form), sorted."""

_portable = jax.make_user_context(default_value=False)
"""Whether programs are traced for any platform, not for that of this process."""

_calls: ContextVar["dict[str, Call] | None"] = ContextVar("calls", default=None)


@dataclass
class Call:
    """A choice that a trace asks for: operation and shapes.

    default: the form without a pinned one. arguments: of the operation, in shapes. count: how often it is asked
    for. has_input_gradient: whether the trace differentiates by the first argument.
    """

    default: str
    arguments: tuple[Any, ...]
    count: int = 0
    has_input_gradient: bool = False


def choose(key: str, default: str, options: Collection[str]) -> str:
    """The form to trace: the pinned one if it is one of the options, else the default.

    key: of operation and shapes. default: the form that is not measured. options: the forms of the operation.
    """
    form = pins().get(key, default)
    return form if form in options else default


def pinned(forms: Mapping[str, str]) -> AbstractContextManager[Any]:
    """A context in which programs are traced with these forms, in this thread. forms: {key: form}."""
    return _pins(tuple(sorted(forms.items())))


def pins() -> dict[str, str]:
    """The forms that are pinned where this is called: {key: form}."""
    return dict(_pins.value)


def portable() -> AbstractContextManager[Any]:
    """A context in which programs are traced for any platform, in this thread: with XLA's operations as they are."""
    return _portable(True)


def platform() -> str:
    """The platform that forms are chosen for: "cpu", "gpu", "tpu", or "any" inside of `portable`."""
    return "any" if _portable.value else jax.default_backend()


@contextmanager
def recorded() -> Iterator[dict[str, Call]]:
    """A context that records the choices that traces ask for: a dict {key: Call}, filled by `record`."""
    calls: dict[str, Call] = {}
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def record(key: str, default: str, x: Any, *others: Any) -> Any:
    """Record a choice, inside of `recorded`; x, through which the record sees whether a gradient passes.

    key, default: as in `choose`. x: the first argument of the operation. others: arrays and static settings.
    """
    calls = _calls.get()
    if calls is None:
        return x
    shapes = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "dtype") else a for a in (x, *others))
    call = calls.setdefault(key, Call(default, shapes))
    call.count += 1
    return _watch_gradient(call)(x)


def _watch_gradient(call: Call) -> Callable[[Any], Any]:
    """The identity, whose derivative notes in the call that it is asked for."""

    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def _(primals, tangents):
        call.has_input_gradient = True
        return primals[0], tangents[0]

    return identity


def table_file() -> Path | None:
    """The file of the measured table; None without a cache folder."""
    folder = user_cache.cache_folder()
    return None if folder is None else folder / "tuning.json"


def is_off() -> bool:
    """Whether the environment says that no measured form should be used: NNFUNC_TUNING=off."""
    return os.environ.get(SWITCH) == "off"


def measured() -> dict[str, str]:
    """The fastest forms that were measured with this jaxlib on this processor: {key: form}; {} with NNFUNC_TUNING=off.

    A damaged file counts as empty, with a warning.
    """
    file = table_file()
    if is_off() or file is None or not file.exists():
        return {}
    return {key: entry["form"] for key, entry in _read(file).get(_machine(), {}).items()}


def save_measured(entries: Mapping[str, tuple[str, Mapping[str, float]]]) -> None:
    """Add measured forms to the table, where they replace earlier ones of the same keys.

    entries: {key: (fastest form, {form: seconds})}.
    """
    file = table_file()
    if file is None:
        return
    table = _read(file) if file.exists() else {}
    rows = {key: {"form": form, "seconds": dict(seconds)} for key, (form, seconds) in entries.items()}
    table[_machine()] = table.get(_machine(), {}) | rows
    file.parent.mkdir(parents=True, exist_ok=True)
    documents.write_file(file, f"{json.dumps(table, indent=1)}\n".encode())


def _read(file: Path) -> dict[str, Any]:
    try:
        return documents.read_json(file, TABLE, hint="`nnfunc tune CONFIG` writes it anew.")
    except (OSError, ValueError) as error:
        warnings.warn(f"the table of measured forms is ignored: {error}", stacklevel=3)
        return {}


def _machine() -> str:
    """What measured times hold for: the version and flags of jaxlib, the processor, and how many cores may be used."""
    name = host.processor() or host.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = xla_flags.flags_in_force()
    return f"jaxlib {JAXLIB}, {next(iter(names), name)}, {cores} cores{flags and f', {flags}'}"
