"""What the table [sweep] and the words of the command line say, place by place, not yet understood."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nnfunc import check
from nnfunc.config.build import is_schedule
from nnfunc.config.errors import COMMAND_LINE, ProblemList, describe, printable
from nnfunc.config.key_path import KeyPath, argument_depth, find_type, format_key, get_value, parse_key
from nnfunc.config.schema import TABLES
from nnfunc.config.sweep.distributions import FORMS, is_form
from nnfunc.config.sweep.sweep_options import OPTIONS

__all__ = ["Entry", "check_unique", "override_entries", "table_entries"]

Tables = dict[str, Any]


class Entry(NamedTuple):
    """What was said of one place: a value as TOML has it, or the text of a word."""

    path: KeyPath
    value: Any
    is_override: bool

    def mistake(self, problem: str, where: str) -> str:
        who = f"{COMMAND_LINE}: " if self.is_override else f"{where}: sweep."
        return f"{who}{format_key(self.path)}: {problem}{'' if problem.endswith('?') else '.'}"


def table_entries(table: Mapping[str, Any], around: KeyPath, tables: Tables, mistakes: ProblemList) -> Iterator[Entry]:
    """What the table [sweep] says, tables in it taken apart down to values and forms."""
    for key, value in table.items():
        place = (*around, *parse_key(key))
        if not around and key in OPTIONS:
            continue
        if len(place) == len(around):
            problem = f"each key should be the path of a setting, got {key!r}."
            mistakes.lines.append(f"{mistakes.file}: sweep: {problem}")
        elif len(place) == 1 and place[0] not in ("seed", *TABLES):
            hint = check.nearest(key, [*OPTIONS, "seed", *TABLES])
            problem = f"{printable(key)}: there is no such key{hint}"
            mistakes.lines.append(f"{mistakes.file}: sweep.{problem}")
        elif not isinstance(value, dict) or is_form(value) or is_schedule(value):
            yield Entry(place, value, False)
        elif _holds_more(place, tables):
            yield from table_entries(value, place, tables, mistakes)
        else:
            near = check.nearest(str(next(iter(value), "")), FORMS)
            problem = f"should be such as {{ log = [1e-4, 1e-1] }}, got {describe(value)}{near}"
            mistakes.lines.append(Entry(place, value, False).mistake(problem, mistakes.file))


def _holds_more(place: KeyPath, tables: Tables) -> bool:
    """Whether what stands at a place is a table: of arguments, of numbers by pattern, a schedule."""
    if len(place) < argument_depth(place):
        return True
    kind, there = find_type(tables, place), get_value(tables, place)
    by_pattern = kind is not None and "a table of" in kind.singular
    return isinstance(there, dict) or (there is None and by_pattern)


def override_entries(words: Sequence[str], mistakes: ProblemList) -> Iterator[Entry]:
    """What words such as "seed=0:8" say."""
    for word in words:
        path, equals, text = word.partition("=")
        place = parse_key(path)
        if not equals or not place:
            wanted = "a setting should be key=value, such as seed=0:8 or train.steps=2000"
            mistakes.lines.append(f"{COMMAND_LINE}: {wanted}, got {word!r}.")
        elif place[0] == "sweep" or place in [(name,) for name in OPTIONS]:
            name = place[-1]
            own = f"write --{name} {printable(text.strip())}"
            cure = own if name in OPTIONS else "leave out 'sweep.'"
            problem = f"{format_key(place)}: is no setting of the config; {cure}."
            mistakes.lines.append(f"{COMMAND_LINE}: {problem}")
        else:
            yield Entry(place, text, True)


def check_unique(entries: Iterator[Entry], mistakes: ProblemList) -> dict[KeyPath, Entry]:
    """The entries by their places, of which each should be given once."""
    found: dict[KeyPath, Entry] = {}
    for entry in entries:
        if entry.path in found:
            problem = "is given twice; leave out one of the two"
            mistakes.lines.append(entry.mistake(problem, mistakes.file))
        found[entry.path] = entry
    return found
