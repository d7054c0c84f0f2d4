"""What the table [sweep] and the words of the command line say, place by place, not yet understood."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nnfunc import check
from nnfunc.config.build import is_scheduled
from nnfunc.config.errors import SHELL, Mistakes, show, words_of
from nnfunc.config.key_path import Place, depth_of, kind_at, place_of, value_at, written
from nnfunc.config.schema import TABLES
from nnfunc.config.sweep.distributions import FORMS, is_form
from nnfunc.config.sweep.sweep_options import OPTIONS

__all__ = ["Entry", "of_file", "of_words", "unique"]

Tables = dict[str, Any]


class Entry(NamedTuple):
    """What was said of one place: a value as TOML has it, or the text of a word."""

    place: Place
    value: Any
    by_shell: bool

    def mistake(self, problem: str, where: str) -> str:
        who = f"{SHELL}: " if self.by_shell else f"{where}: sweep."
        return f"{who}{written(self.place)}: {problem}{'' if problem.endswith('?') else '.'}"


def of_file(table: Mapping[str, Any], around: Place, tables: Tables, mistakes: Mistakes) -> Iterator[Entry]:
    """What the table [sweep] says, tables in it taken apart down to values and forms."""
    for key, value in table.items():
        place = (*around, *place_of(key))
        if not around and key in OPTIONS:
            continue
        if len(place) == len(around):
            problem = f"each key should be the path of a setting, got {key!r}."
            mistakes.lines.append(f"{mistakes.file}: sweep: {problem}")
        elif len(place) == 1 and place[0] not in ("seed", *TABLES):
            hint = check.nearest(key, [*OPTIONS, "seed", *TABLES])
            problem = f"{words_of(key)}: there is no such key{hint}"
            mistakes.lines.append(f"{mistakes.file}: sweep.{problem}")
        elif not isinstance(value, dict) or is_form(value) or is_scheduled(value):
            yield Entry(place, value, False)
        elif _holds_more(place, tables):
            yield from of_file(value, place, tables, mistakes)
        else:
            near = check.nearest(str(next(iter(value), "")), FORMS)
            problem = f"should be such as {{ log = [1e-4, 1e-1] }}, got {show(value)}{near}"
            mistakes.lines.append(Entry(place, value, False).mistake(problem, mistakes.file))


def _holds_more(place: Place, tables: Tables) -> bool:
    """Whether what stands at a place is a table: of arguments, of numbers by pattern, a schedule."""
    if len(place) < depth_of(place):
        return True
    kind, there = kind_at(tables, place), value_at(tables, place)
    by_pattern = kind is not None and "a table of" in kind.one
    return isinstance(there, dict) or (there is None and by_pattern)


def of_words(words: Sequence[str], mistakes: Mistakes) -> Iterator[Entry]:
    """What words such as "seed=0:8" say."""
    for word in words:
        path, equals, text = word.partition("=")
        place = place_of(path)
        if not equals or not place:
            wanted = "a setting should be key=value, such as seed=0:8 or train.steps=2000"
            mistakes.lines.append(f"{SHELL}: {wanted}, got {word!r}.")
        elif place[0] == "sweep" or place in [(name,) for name in OPTIONS]:
            name = place[-1]
            own = f"write --{name} {words_of(text.strip())}"
            cure = own if name in OPTIONS else "leave out 'sweep.'"
            problem = f"{written(place)}: is no setting of the config; {cure}."
            mistakes.lines.append(f"{SHELL}: {problem}")
        else:
            yield Entry(place, text, True)


def unique(entries: Iterator[Entry], mistakes: Mistakes) -> dict[Place, Entry]:
    """The entries by their places, of which each should be given once."""
    found: dict[Place, Entry] = {}
    for entry in entries:
        if entry.place in found:
            problem = "is given twice; leave out one of the two"
            mistakes.lines.append(entry.mistake(problem, mistakes.file))
        found[entry.place] = entry
    return found
