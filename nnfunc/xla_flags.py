"""Flags of XLA that avoid known faults of its compiler for CPUs, and slow convolutions.

XLA reads the environment variable XLA_FLAGS once, when JAX starts its first backend, and aborts the process
at an unknown flag. So each flag is only set for the versions of jaxlib with which it was tested.
"""

import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
from jaxlib.version import __version__ as JAXLIB


class CompilerFault(NamedTuple):
    """A fault of a version of jaxlib on CPUs. description: a clause about it. flag: that avoids it."""

    description: str
    flag: str


NO_REDUCE = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
"""Sums are computed by XLA instead of YNNPACK; products are still computed by YNNPACK, which is fast."""

FAULTS = {
    "0.10.0": CompilerFault("aborts the process in some gradients of pooling", NO_REDUCE),
    # jax issues 39103 and 40412; float64 is wrong from 16,385 rows on
    "0.10.2": CompilerFault(
        "computes wrong sums over few columns of more than 32,768 rows, and crashes in some sums of arrays with 7 axes",
        NO_REDUCE,
    ),
}
"""Version of jaxlib -> its fault. 0.10.1, 0.11.0 to 0.11.2 and 0.12.0.1 were tested and need no flag."""


FAST_CONVOLUTIONS = {
    version: "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution" for version in ("0.10.2", "0.12.0.1")
}
"""Version of jaxlib -> the flag with which convolutions use all cores: YNNPACK computes each on one.

The step of the CNN of `scripts/bench.py peers` took 0.69 of the time with it on 0.10.2, and 0.87 on 0.12.0.1.
"""


def known_fault() -> CompilerFault | None:
    """The known fault of the installed jaxlib, or None."""
    return FAULTS.get(JAXLIB)


def flags_in_force() -> str:
    """The flags that XLA reads: those of XLA_FLAGS, or of the file that it names."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if not flags or flags.startswith("-"):
        return flags
    try:
        return Path(flags).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return flags  # XLA aborts with a message


def is_set(flag: str) -> bool:
    """Whether a flag with a list of values, such as `NO_REDUCE`, is in force. flag: its name, "=" and one value."""
    value, values = flag.partition("=")[2], _values(flag)
    only_single = _is_whole(values) and all(one.startswith("individual_") for one in values)
    return value in values or (only_single and value[:1] == "-" and value[1:] not in values)


def set_flags() -> None:
    """Add the flags for the installed jaxlib to XLA_FLAGS; warn if JAX has read them already and has a fault.

    The other values that the user has set for a flag are not changed. With NNFUNC_XLA_FLAGS=leave it does
    nothing.
    """
    if os.environ.get("NNFUNC_XLA_FLAGS") == "leave":
        return
    fault, fast = known_fault(), FAST_CONVOLUTIONS.get(JAXLIB)
    chosen_by_user = fast is not None and _value(flags_in_force(), fast) is not None
    if fault is not None and not _add(fault.flag) and jax.default_backend() == "cpu":
        reason = "JAX has started already, so nnfunc cannot set the flag that avoids this."
        hint = f"Import nnfunc before the first computation, or set XLA_FLAGS={fault.flag}"
        _warn(f"jaxlib {JAXLIB} {fault.description}. {reason} {hint}")
    elif fault is not None and _is_whole(_values(fault.flag)) and not is_set(fault.flag):
        problem = f"XLA_FLAGS lists all fusions that are on, and with these jaxlib {JAXLIB} {fault.description}"
        _warn(f"{problem}. Write the changes to its default instead, such as {fault.flag}")
    if fast is not None and not chosen_by_user:
        _add(fast)


def _warn(message: str) -> None:
    warnings.warn(f"{message}. NNFUNC_XLA_FLAGS=leave silences this warning.", RuntimeWarning, stacklevel=4)


def _add(flag: str) -> bool:
    """Add a value to a flag that is a list, unless it is there or the user's flags rule it out; False if too late."""
    flags = flags_in_force()
    values = _value(flags, flag)
    name, _, value = flag.partition("=")
    unreadable = flags and not flags.startswith("-")
    if unreadable or values == "" or value in _values(flag) or _is_whole(_values(flag)):
        return True
    if _backend_started():
        return False
    added = f"{name}={values},{value}" if values else flag  # the last one of repeated flags counts
    os.environ["XLA_FLAGS"] = f"{flags} {added}".strip()
    return True


def _is_whole(values: list[str]) -> bool:
    """Whether a list names all that is on, as "dot,reduce" does: XLA refuses to mix it with "-reduce", a change."""
    return any(value and value[0] not in "+-" for value in values)


def _values(flag: str) -> list[str]:
    """The list of a flag that is in force."""
    return (_value(flags_in_force(), flag) or "").split(",")


def _value(flags: str, flag: str) -> str | None:
    """The last value of a flag in `flags`; None if it is not set."""
    name = flag.lstrip("-").partition("=")[0]
    result = re.findall(rf"(?<!\S)['\"]?--?{name}(?![\w-])=?([^\s'\"]*)", flags)
    return result[-1] if result else None


def _backend_started() -> bool:
    """Whether JAX has started a backend. No public function says so, but then the number of devices is fixed."""
    count = jax.config.values["jax_num_cpu_devices"]
    try:
        jax.config.update("jax_num_cpu_devices", count + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)
    return False
