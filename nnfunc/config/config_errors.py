"""The mistakes of a config: each names its file and key, and all of them are reported together."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nnfunc import check
from nnfunc.errors import InvalidValueError, NnfuncError

COMMAND_LINE = "the command line"


@dataclass(frozen=True)
class Problem:
    """One mistake of a config; `str(problem)` is its line in the message.

    text: the whole sentence, with its hint.
    source: the file, or "the command line".
    path: the dotted key, such as `schedule.peak`; empty for a mistake of the whole file.
    expected, actual, hint: the parts of the sentence, as in `NnfuncError`, empty where it has none.
    """

    text: str
    source: str = ""
    path: str = ""
    expected: str = ""
    actual: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, printable(self.path), self.text) if part)


class ConfigError(InvalidValueError):
    """A config has mistakes; the message has a line for each.

    problems: the mistakes, in the order of the message; a plain text becomes a `Problem`.

    >>> ConfigError([Problem("there is no such key.", "a.toml", "model.dropot")]).problems[0].path
    'model.dropot'
    """

    def __init__(self, problems: Iterable[Problem | str]):
        self.problems = [problem if isinstance(problem, Problem) else Problem(problem) for problem in problems]
        super().__init__("\n".join(map(str, self.problems)))


class ProblemList:
    """Collects the problems of one config.

    file: the name of the config in messages.
    folders: the config's folder and the current directory, which relative paths may start from; None leaves
        relative paths as they are.
    overridden: the keys of the command line; problems of these have it as their source instead of the file.
    """

    def __init__(self, file: str, folders: tuple[Path, Path] | None = None, overridden: Iterable[str] = ()):
        self.file, self.folders, self.overridden = file, folders, set(overridden)
        self.problems: list[Problem] = []

    def add(
        self, path: str, text: str = "", *, expected: str = "", actual: str = "", hint: str = "", source: str = ""
    ) -> None:
        """Add a problem of the key `path`, which may be a missing one.

        text: what is wrong; by default "`expected`, got `actual`".
        hint: what to do; if it starts in lower case, it continues the sentence after a semicolon.
        source: by default the command line if it overrides the key, else the file.
        """
        text = text or f"{expected}, got {actual}"
        text = f"{text}; {hint}" if hint[:1].islower() else f"{text.removesuffix('.')}. {hint}".rstrip()
        source = source or (COMMAND_LINE if self.is_override(path) else self.file)
        self.problems.append(Problem(text, source, path, expected, actual, hint))

    def is_override(self, path: str) -> bool:
        """Whether the command line overrides the key `path`, a part of its value or the table around it."""
        return any(_is_inside(path, key) or _is_inside(key, path) for key in self.overridden)

    def add_refusal(self, path: str, error: Exception, blamed: str = "") -> None:
        """Add the `error` of a factory that refuses the arguments of the table `path`.

        blamed: the value that the error is about, if the error does not name it.
        """
        source = f"{self.file} with overrides" if self.overridden else self.file
        expected, actual, hint = error_parts(error)
        text = to_one_line(error.body() if isinstance(error, NnfuncError) and error.where == path else str(error))
        text += f" That is {blamed}." if blamed else ""
        self.problems.append(Problem(text, source, path, expected, actual, hint))

    def raise_all(self) -> None:
        """Raise the ConfigError of all problems, if there are any."""
        if self.problems:
            raise ConfigError(dict.fromkeys(self.problems))


def fail(
    source: str, path: str = "", text: str = "", *, expected: str = "", actual: str = "", hint: str = ""
) -> NoReturn:
    """Raise the ConfigError of one problem; the arguments are those of `ProblemList.add`."""
    problems = ProblemList(source)
    problems.add(path, text, expected=expected, actual=actual, hint=hint)
    raise ConfigError(problems.problems)


def error_parts(error: Exception) -> tuple[str, str, str]:
    """The parts (expected, actual, hint) of an error, empty where it has none."""
    return (error.expected, error.actual, error.hint) if isinstance(error, NnfuncError) else ("", "", "")


def _is_inside(path: str, table: str) -> bool:
    inner, outer = (key.replace("[", ".").replace("]", "") + "." for key in (path, table))
    return inner.startswith(outer)


def nearest_hint(name: Any, names: Iterable[str], *, list_names: bool = False) -> str:
    """A hint such as "did you mean 'peak'?".

    name: the wrong name, of any type.
    names: the valid ones.
    list_names: whether to list the valid names if none is similar; otherwise the hint is empty then.

    >>> nearest_hint("pek", ["peak", "final"]), nearest_hint("x", ["peak", "final"])
    ("did you mean 'peak'?", '')
    """
    if not isinstance(name, str) and not list_names:
        return ""
    hint = check.nearest(str(name), names).removeprefix("; ")
    return hint if list_names or hint.startswith("did") else ""


def describe(value: Any) -> str:
    """A short description of any `value`, with its type."""
    try:
        return check.describe(value)
    except ValueError:  # Python refuses to write integers of over 4300 digits
        return "a number too long to write (int)"


def printable(path: str) -> str:
    """The key `path`, quoted if it has characters that cannot be printed."""
    return path if path.isprintable() else repr(path)


def to_one_line(error: BaseException | str) -> str:
    """The message of `error` on one line, with a full stop."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."
