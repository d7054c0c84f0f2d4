"""What a compiled program consists of: its HLO instructions and temporary memory."""

import platform
import re
from collections import Counter
from typing import Any

import jax

FAMILIES = (
    "dot",
    "convolution",
    "custom-call",
    "fusion",
    "while",
    "transpose",
    "copy",
    "reduce",
    "reduce-window",
    "select-and-scatter",
    "gather",
    "scatter",
)
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_LINE = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*?\s([a-z][\w\-]*)\(")


def figures(compiled: Any) -> dict[str, int]:
    """Counts of the optimized HLO, and temporary_bytes: what a call takes from malloc for itself.

    instructions: all that calculate or move something, those inside fusions too.
    """
    memory = compiled.memory_analysis()
    return count(compiled.as_text()) | {"temporary_bytes": int(memory.temp_size_in_bytes)}


def count(text: str) -> dict[str, int]:
    """Instructions by family, of the text of an HLO module."""
    matches = map(_LINE.match, text.splitlines())
    ops = Counter(match[1] for match in matches if match)
    total = sum(n for op, n in ops.items() if op not in FREE)
    return {"instructions": total} | {op: ops[op] for op in FAMILIES if ops[op]}


def where() -> tuple[str, str]:
    """The platform and the minor version of jax, under which counts are kept."""
    backend = jax.default_backend()
    name = f"{backend}-{platform.machine().lower()}" if backend == "cpu" else backend
    return name, ".".join(jax.__version__.split(".")[:2])
