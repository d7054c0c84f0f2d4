"""What a sweep is going to do, in words: its groups and why, and how their members run."""

from dataclasses import dataclass
from typing import Any

from nnfunc.sweeps.ways import Way

__all__ = ["Plan", "Planned"]


@dataclass(frozen=True)
class Planned:
    """A group. static: the values that set it apart. members: their places. way: None until probed."""

    static: dict[str, Any]
    members: tuple[int, ...]
    way: Way | None = None


@dataclass(frozen=True)
class Plan:
    """groups: what one program each runs. traced: the names that the programs take as arguments.

    static: the names that make groups, and why. refused: members whose hypers build refuses, and why.
    """

    settings: int
    seeds: int
    steps: int
    traced: list[str]
    static: dict[str, str]
    refused: dict[int, str]
    groups: list[Planned]

    def __str__(self) -> str:
        runs = self.settings * self.seeds
        seeds = f", {self.seeds} seeds each" if self.seeds > 1 else ""
        lines = [f"{_count(runs, 'run')} of {_count(self.steps, 'step')}: "
                 f"{_count(self.settings, 'setting')}{seeds}"]  # fmt: skip
        if self.traced:
            lines.append(f"arguments of the program: {', '.join(self.traced)}")
        lines += [f"makes groups: {name} ({why})" for name, why in self.static.items()]
        for place, group in enumerate(self.groups):
            own = ", ".join(f"{name}={_short(value)}" for name, value in group.static.items())
            how = f": {group.way}" if group.way is not None else ": the way is found by a probe"
            own = f" ({own})" if own else ""
            lines.append(f"group {place}{own}, {_count(len(group.members), 'member')}{how}")
        lines += [f"member {i} is refused: {why}" for i, why in list(self.refused.items())[:5]]
        if len(self.refused) > 5:
            lines.append(f"and {len(self.refused) - 5} more are refused")
        return "\n".join(lines)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _short(value: Any) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
