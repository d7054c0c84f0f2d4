"""Flags of XLA that work around known faults of its compiler for CPUs.

XLA reads the variable XLA_FLAGS once, when JAX starts its first backend, and ends the process at a flag
that it does not know. So each flag goes with the versions of jaxlib that it was tried with.
"""

import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
from jaxlib.version import __version__ as JAXLIB

__all__ = ["FAULTS", "JAXLIB", "CompilerFault", "flags_in_force", "known_fault", "set_flags"]


class CompilerFault(NamedTuple):
    """A fault of a version of jaxlib on CPUs. description: of the fault. flag: that avoids it."""

    description: str
    flag: str


NO_REDUCE = "--xla_cpu_experimental_ynn_fusion_type=-reduce"
"""Sums by XLA itself, not by YNNPACK; the products of YNNPACK, which are fast, stay."""

FAULTS = {
    "0.10.0": CompilerFault("ends the process in some gradients of pooling", NO_REDUCE),
    # jax issues 39103 and 40412; float64 is wrong from 16,385 rows on
    "0.10.2": CompilerFault(
        "computes wrong sums over few columns of more than 32,768 rows, and crashes in some sums of arrays with 7 axes",
        NO_REDUCE,
    ),
}
"""Version of jaxlib -> its fault. 0.10.1, 0.11.0 to 0.11.2 and 0.12.0.1 were tried and need none."""


def known_fault() -> CompilerFault | None:
    """The fault that the installed jaxlib is known for, or None."""
    return FAULTS.get(JAXLIB)


def flags_in_force() -> str:
    """What XLA_FLAGS gives to XLA: its words, or those of the file that it names."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if not flags or flags.startswith("-"):
        return flags
    try:
        return Path(flags).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return flags  # XLA ends the process, and says why


def set_flags() -> None:
    """Add the flag that cures the installed jaxlib to XLA_FLAGS, or warn when JAX has read it already.

    Of a setting of that flag by the user all stands but what the fault needs.
    NNFUNC_XLA_FLAGS=leave: it does nothing.
    """
    fault, flags = known_fault(), flags_in_force()
    if fault is None or os.environ.get("NNFUNC_XLA_FLAGS") == "leave":
        return
    unreadable = flags and not flags.startswith("-")
    given = _value(flags, fault.flag)
    name, _, cure = fault.flag.partition("=")
    if unreadable or given == "" or (given and cure in given.split(",")):
        return
    if not _backend_started():
        cured = f"{name}={given},{cure}" if given else fault.flag  # of two values the last one counts
        os.environ["XLA_FLAGS"] = f"{flags} {cured}".strip()
    elif jax.default_backend() == "cpu":
        problem = f"jaxlib {JAXLIB} {fault.description}"
        why = "JAX has run something already, so nnfunc cannot set the flag that cures it."
        hint = f"Import nnfunc before the first computation, or set XLA_FLAGS={fault.flag}"
        silent = "NNFUNC_XLA_FLAGS=leave silences this."
        warnings.warn(f"{problem}. {why} {hint}. {silent}", RuntimeWarning, stacklevel=3)


def _value(flags: str, flag: str) -> str | None:
    """The last value that the flag's name has in `flags`, None where it is not there."""
    name = flag.lstrip("-").partition("=")[0]
    found = re.findall(rf"(?<!\S)['\"]?--?{name}(?![\w-])=?([^\s'\"]*)", flags)
    return found[-1] if found else None


def _backend_started() -> bool:
    """Whether JAX has a backend. No public function tells, but then the number of devices is locked."""
    count = jax.config.values["jax_num_cpu_devices"]
    try:
        jax.config.update("jax_num_cpu_devices", count + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)
    return False
