"""What is wrong with a config, in words: one line each, all of them together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.errors import InvalidValueError, NnfuncError

__all__ = ["ConfigError", "ProblemList", "describe", "printable", "suggest", "to_one_line"]

COMMAND_LINE = "the command line"


class ConfigError(InvalidValueError):
    """What is wrong with a config; problems: one line each, and the message is all of them."""

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class ProblemList:
    """What is wrong so far, each with the file, or the command line where an override gave it.

    folders: the config's and the current one, to which relative paths belong, or None.
    """

    def __init__(self, file: str, folders: tuple[Path, Path] | None = None):
        self.file, self.folders = file, folders
        self.lines: list[str] = []
        self.overridden: set[str] = set()

    def add(self, path: str, problem: str) -> None:
        """Note what is wrong with one key, or with a table that is not there."""
        self.lines.append(f"{COMMAND_LINE if self.is_override(path) else self.file}: {printable(path)}: {problem}")

    def is_override(self, path: str) -> bool:
        """Whether the command line gave a key, something in it or the table around it."""
        return any(_within(path, o) or _within(o, path) for o in self.overridden)

    def add_refusal(self, table: str, error: Exception, which: str = "") -> None:
        """Note why a factory refuses a table; it may be several of its values together.

        which: what came, where that is more than the table.
        """
        file = f"{self.file} with overrides" if self.overridden else self.file
        more = f" That is {which}." if which else ""
        reason = error.body() if isinstance(error, NnfuncError) and error.where == table else str(error)
        self.lines.append(f"{file}: {table}: {to_one_line(reason)}{more}")


def _within(path: str, other: str) -> bool:
    dotted, start = (p.replace("[", ".").replace("]", "") + "." for p in (path, other))
    return dotted.startswith(start)


def suggest(word: Any, words: Iterable[str]) -> str:
    """The end of an error whose words are named already: a near one, if there is one."""
    hint = check.nearest(word, words) if isinstance(word, str) else "."
    return hint if hint.startswith("; did") else "."


def describe(value: Any) -> str:
    """A value and its type, short."""
    try:
        return check.describe(value)
    except ValueError:  # Python refuses to write integers of over 4300 digits
        return "a number too long to write (int)"


def printable(path: str) -> str:
    """A path as it is, or quoted where it would not be one line of text."""
    return path if path.isprintable() else repr(path)


def to_one_line(error: BaseException | str) -> str:
    """The message on one line, with a full stop."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."
