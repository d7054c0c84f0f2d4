"""One contender: prepares and compiles, then answers `run N` with the milliseconds of each of N steps.

It answers `memory` with the most MB that the process had.

    python -m speed.peers.child MODULE:FUNCTION CASE FILE      # from scripts/; FILE: see turns.save

Answers are lines of JSON. Between them the process waits for a line, so it takes no time from others.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import Contender, Unavailable

STEPS_COMPARED = 4


def main() -> None:
    entry, case, file = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    try:
        start = time.perf_counter()
        contender, losses = prepare(entry, case, file)
        answer({"losses": losses, "seconds": time.perf_counter() - start})
    except Unavailable as error:
        return answer({"unavailable": str(error)})
    for line in sys.stdin:
        command, *numbers = line.split()
        answer(peak_mb() if command == "memory" else burst(contender, int(numbers[0])))


def prepare(entry: str, case: str, file: str) -> tuple[Contender, list[float]]:
    """The contender, compiled, and its first losses."""
    compared = STEPS_COMPARED if case not in ("epoch", "decoding") else 1
    if case == "decoding":
        params, batch = {}, Path(file)
    else:
        with np.load(file) as arrays:
            batch = tuple(arrays[name] for name in ("x", "labels", "order") if name in arrays.files)
            params = nested({name[7:]: arrays[name] for name in arrays.files if name.startswith("params/")})
    module, function = entry.split(":")
    contender = getattr(importlib.import_module(f".{module}", __package__), function)(case, params, batch)
    state, losses = contender.start(), []
    for _ in range(compared):
        state, loss = contender.step(state)
        losses.append(float(loss))
    return contender, losses


def peak_mb() -> float:
    """The most memory of this process so far, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (1e6 if sys.platform == "darwin" else 1e3), 1)


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}.

    Not `nnfunc.paths.unflatten`: importing nnfunc sets flags of XLA, which the peers should not get.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def burst(contender: Contender, count: int) -> float:
    """Milliseconds of a step. Each burst trains anew: a loss near 0 would make numbers too small to be fast."""
    state = contender.start()
    for _ in range(1 + count // 10):
        state, loss = contender.step(state)
    float(loss)  # waits for the step
    start = time.perf_counter()
    for _ in range(count):
        state, loss = contender.step(state)
    float(loss)
    return 1e3 * (time.perf_counter() - start) / count


if __name__ == "__main__":
    main()
