"""The figures of a comparison as tables, for the terminal or for docs/benchmarks.md."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

TIMES = ("case", "malloc", "nnfunc ms", "plain JAX ms", "ratio (90 %)", "paired", "bar", "", "nf.train", "load")
PROGRAMS = ("case", "compile s", "HLO instructions", "temporary MB", "page faults", "MFLOP")
NOTE = (
    "ms: median of the rounds (quartiles). ratio: of the medians, and its 90 % interval (bootstrap). "
    "paired: median of the rounds' own ratios; where the two differ, the machine was not quiet. "
    "nf.train: the ratio of its own step, which also has metrics, the gradient's norm and a guard "
    "against non-finite values. load: of the last minute, before and after. programs: nnfunc / plain "
    "JAX, page faults a step by malloc setting."
)


def show(report: dict[str, Any], markdown: bool) -> None:
    rows, title = report["rows"], where(report["machine"])
    tables = {
        f"Train steps: {title}": (TIMES, [times(row) for row in rows]),
        "Their programs": (PROGRAMS, list(programs(rows))),
    }
    for title, (head, body) in tables.items():
        write(title, head, body, markdown=markdown)
        if markdown:
            print()
    print(NOTE) if markdown else console().print(NOTE)


def where(machine: dict[str, Any]) -> str:
    """`2 cores of AMD EPYC, jax 0.10.2, 2026-11-22`."""
    cores = f"{machine['cores']} cores of {machine['cpu']}"
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, "
    return f"{device}{cores}, jax {machine['jax']}, {machine['date']}"


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def write(title: str, head: Sequence[str], body: list[list[str]], *, markdown: bool) -> None:
    if markdown:
        lines = (head, ["---"] * len(head), *body)
        print(f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    table = Table(*head, title=title)
    for line in body:
        table.add_row(*line)
    console().print(table)


def times(row: dict[str, Any]) -> list[str]:
    ratio, bar = row["ratio"], row["bar"]
    met = "" if bar is None else ("met" if ratio["value"] <= bar else "missed")
    ms = [row["sides"][name]["ms"] for name in ("nnfunc", "plain")]
    return [
        row["case"],
        row["malloc"],
        *(f"{side['median']:.2f} ({side['low']:.2f}-{side['high']:.2f})" for side in ms),
        f"{ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
        f"{row['paired']:.2f}",
        "" if bar is None else f"{bar:.2f}",
        met,
        f"{row['trainer']['value']:.2f}",
        "-".join(f"{load:.1f}" for load in row["load"]),
    ]


def programs(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """One line a case: malloc changes nothing but the page faults."""
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]

        def both(name, scale=1.0, digits=0, row=own[0]):
            sides = (row["sides"][side][name] * scale for side in ("nnfunc", "plain"))
            return " / ".join(f"{value:.{digits}f}" for value in sides)

        yield [
            case,
            both("compile_seconds", digits=1),
            both("instructions"),
            both("temporary_bytes", 1e-6, 1),
            ", ".join(f"{row['malloc']} {both('page_faults', row=row)}" for row in own),
            both("flops", 1e-6),
        ]
