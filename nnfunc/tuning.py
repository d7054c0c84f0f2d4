"""Which form of an operation a program is traced with, where several forms compute the same values.

The forms that are pinned come first (`pinned`): `nf.train` pins those that the run began with, or for a new run
those that `nnfunc tune` has measured on this machine. Any other choice is that of the operation's default. What is
pinned is a part of the key of `jax.jit`, so no program that was compiled with other forms is used.
"""

import json
import os
import platform as host
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxlib.version import __version__ as JAXLIB

from nnfunc import documents, user_cache, xla_flags
from nnfunc.array_types import shape_struct

SWITCH = "NNFUNC_TUNING"
"""The environment variable that is "off" where no measured form should be used."""

TABLE = {str: {str: {"form": str, "seconds?": {str: float}}}}
"""The measured table: jaxlib's version and the processor -> key -> the fastest form, and the seconds of each."""

Form = TypeVar("Form", bound=str)

_pins = jax.make_user_context(default_value=())
"""The pinned forms: pairs (key, form), sorted."""

_portable = jax.make_user_context(default_value=False)
"""Whether programs are traced for any platform, not for that of this process."""

_calls: ContextVar["dict[str, Call] | None"] = ContextVar("calls", default=None)


@dataclass
class Call:
    """A choice that a trace asks for: operation and shapes.

    default: the form without a pinned one.
    options: the names of the forms.
    function: the operation, which is timed alone with each form pinned; None where the whole training step is
        timed.
    arguments: of the function, in shapes.
    cost: proportional to the arithmetic of one call.
    count: how often it is asked for.
    has_input_gradient: whether the trace differentiates by the first argument.
    """

    default: str
    options: tuple[str, ...]
    function: Callable[..., Any] | None = None
    arguments: tuple[Any, ...] = ()
    cost: float = 0.0
    count: int = 0
    has_input_gradient: bool = False


def choose(key: str, default: Form, options: Collection[Form]) -> Form:
    """The form to trace: the pinned one if it is one of the options, else the default.

    key: of operation and shapes.
    default: the form that is not measured.
    options: the forms of the operation.
    """
    if (calls := _calls.get()) is not None:
        calls.setdefault(key, Call(default, tuple(options))).count += 1
    form = pins().get(key)
    return next((option for option in options if option == form), default)


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


def record(
    key: str, default: str, options: Collection[str], function: Callable[..., Any], x: Any, *others: Any, cost: float
) -> Any:
    """Record how a choice can be timed alone, inside of `recorded`, before it is made: of the costliest call of a key.

    Return x, through which the record sees whether a gradient passes.
    key, default, options: as in `choose`.
    function: the operation, which makes the choice.
    x, others: its arguments, pytrees of floats.
    cost: proportional to the arithmetic.
    """
    calls = _calls.get()
    if calls is None:
        return x
    call = calls.setdefault(key, Call(default, tuple(options)))
    if cost >= call.cost:
        call.function, call.arguments, call.cost = function, jax.tree.map(shape_struct, (x, *others)), cost
    return _watch_gradient(call)(x)


def join_sizes(sizes: Iterable[Any]) -> str:
    """Sizes as they stand in keys: 32x128."""
    return "x".join(map(str, sizes))


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
