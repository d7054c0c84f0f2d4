"""Where the time of a step goes: the operations of nnfunc's step and of plain JAX's, from the profiler's trace."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from nnfunc.commands.profile_steps import operation_layers, operation_times

from .cases import Case, theirs, trained
from .timing import compiled

STEPS = 20
ROWS = 8


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Milliseconds a step of each operation of both steps, the costliest first. rounds: ignored."""
    batch = jax.device_put(case.batch())
    sides = {}
    for name, side in {"nnfunc": trained(case), "plain JAX": theirs(case)}.items():
        program = compiled(side, batch)
        state = program.state
        for _ in range(3):
            state, _ = program.step(state, batch)
        jax.block_until_ready(state)
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(STEPS):
                    state, _ = program.step(state, batch)
                jax.block_until_ready(state)
            times = operation_times(Path(folder), operation_layers(program.step.as_text()), STEPS)
        sides[name] = {operation: 1e3 * seconds for operation, seconds in times.items()}
    return {"title": case.title, "sides": sides, "share": 0.0}


def show(rows: list[dict[str, Any]]) -> None:
    """The tables for docs/benchmarks.md."""
    machine = rows[0]["machine"]
    print(
        f"Operations of a step: {machine['cores']} cores of {machine['cpu']}, jax {machine['jax']}, {machine['date']}\n"
    )
    for row in rows:
        print(f"{row['title']}, malloc {row['malloc']}\n")
        print("| nnfunc | ms | part | plain JAX | ms | part |\n| --- | --- | --- | --- | --- | --- |")
        columns = []
        for times in row["sides"].values():
            whole, items = sum(times.values()), list(times.items())
            rest = sum(time for _, time in items[ROWS:])
            columns.append([(name, time, time / whole) for name, time in [*items[:ROWS], ("the rest", rest)]])
        for pair in zip(*columns, strict=True):
            print("| " + " | ".join(f"{name} | {time:.2f} | {part:.0%}" for name, time, part in pair) + " |")
        print()
