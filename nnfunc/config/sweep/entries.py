"""The settings of the table [sweep] and of the command line, key by key, not yet parsed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nnfunc.config.build import is_schedule
from nnfunc.config.config_errors import COMMAND_LINE, ProblemList, describe, nearest_hint, printable, to_one_line
from nnfunc.config.key_path import KeyPath, argument_depth, find_type, format_key, get_value, parse_key
from nnfunc.config.schema import TABLES
from nnfunc.config.sweep.distributions import FORMS, is_form
from nnfunc.config.sweep.sweep_options import OPTIONS
from nnfunc.errors import NnfuncError

Tables = dict[str, Any]


class SettingEntry(NamedTuple):
    """A setting as it was written.

    path: its key path.
    value: the value in TOML, or the text of an override.
    is_override: whether it is from the command line.
    """

    path: KeyPath
    value: Any
    is_override: bool

    def add_problem(self, problems: ProblemList, text: str = "", **parts: str) -> None:
        """Add to `problems` what is wrong with the setting; `text` and `parts` as for `ProblemList.add`."""
        source, prefix = (COMMAND_LINE, "") if self.is_override else (problems.file, "sweep.")
        problems.add(f"{prefix}{format_key(self.path)}", text, source=source, **parts)

    def add_error(self, problems: ProblemList, error: Exception) -> None:
        """Add to `problems` the error of a parser of the setting."""
        if isinstance(error, NnfuncError):
            parts = {"expected": error.expected, "actual": error.actual, "hint": error.hint}
            self.add_problem(problems, error.problem, **parts)
        else:
            self.add_problem(problems, to_one_line(error))


def table_entries(
    table: Mapping[str, Any], parent: KeyPath, tables: Tables, problems: ProblemList
) -> Iterator[SettingEntry]:
    """The settings of the table [sweep], and of the tables inside it.

    table: the table, or one inside it, at the key path `parent`.
    tables: of the config.
    problems: takes the problems.
    """
    for key, value in table.items():
        path = (*parent, *parse_key(key))
        if not parent and key in OPTIONS:
            continue
        if len(path) == len(parent):
            problems.add("sweep", expected="each key should be the dotted key of a setting", actual=repr(key))
        elif len(path) == 1 and path[0] not in ("seed", *TABLES):
            hint = nearest_hint(key, [*OPTIONS, "seed", *TABLES], list_names=True)
            problems.add(f"sweep.{printable(key)}", "there is no such key", hint=hint)
        elif not isinstance(value, dict) or is_form(value) or is_schedule(value):
            yield SettingEntry(path, value, False)
        elif _is_table(path, tables):
            yield from table_entries(value, path, tables, problems)
        else:
            hint = nearest_hint(str(next(iter(value), "")), FORMS, list_names=True)
            expected = "should be such as { log = [1e-4, 1e-1] }"
            SettingEntry(path, value, False).add_problem(problems, expected=expected, actual=describe(value), hint=hint)


def _is_table(path: KeyPath, tables: Tables) -> bool:
    """Whether the value at a path is a table: of arguments, of numbers by pattern, a schedule."""
    if len(path) < argument_depth(path):
        return True
    value_type, value = find_type(tables, path), get_value(tables, path)
    by_pattern = value_type is not None and "a table of" in value_type.singular
    return isinstance(value, dict) or (value is None and by_pattern)


def override_entries(overrides: Sequence[str], problems: ProblemList) -> Iterator[SettingEntry]:
    """The settings of overrides such as "seed=0:8". problems: takes the problems."""
    for override in overrides:
        key, equals, text = override.partition("=")
        path = parse_key(key)
        if not equals or not path:
            expected = "a setting should be key=value, such as seed=0:8 or train.steps=2000"
            problems.add("", expected=expected, actual=repr(override), source=COMMAND_LINE)
        elif path[0] == "sweep" or path in [(name,) for name in OPTIONS]:
            flag = f"write --{path[-1]} {printable(text.strip())}."
            hint = flag if path[-1] in OPTIONS else "leave out 'sweep.'."
            problems.add(format_key(path), "is not a setting of the config", hint=hint, source=COMMAND_LINE)
        else:
            yield SettingEntry(path, text, True)


def check_unique(entries: Iterator[SettingEntry], problems: ProblemList) -> dict[KeyPath, SettingEntry]:
    """The entries by their key paths. entries: of one source. problems: takes those that are written twice."""
    by_path: dict[KeyPath, SettingEntry] = {}
    for entry in entries:
        if entry.path in by_path:
            entry.add_problem(problems, "is written twice", hint="leave out one of the two.")
        by_path[entry.path] = entry
    return by_path
