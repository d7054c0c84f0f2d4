"""What nnfunc raises for a user's mistake: one family, with the parts of the message as attributes."""

from typing import Any

__all__ = [
    "CheckpointError",
    "ExistingFileError",
    "FileAccessError",
    "InsufficientMemoryError",
    "InvalidIndexError",
    "InvalidTypeError",
    "InvalidValueError",
    "LockedFolderError",
    "MissingFileError",
    "MissingKeyError",
    "MissingPackageError",
    "NnfuncError",
    "PatternError",
    "WorkerError",
]


class NnfuncError(Exception):
    """A mistake that its message explains; the base of every error that nnfunc raises on purpose.

    problem: a whole sentence, or empty when `expected` and `actual` say it.
    where: the function, layer or file that refuses.
    path: the path of the layer inside its model, such as `blocks/3/up`, empty outside of one.
    expected: what was expected, such as "width should be at least 1".
    actual: what came instead.
    hint: what to do; if it starts in lower case, it continues the sentence after a semicolon.

    >>> error = InvalidValueError(where="linear", expected="width should be at least 1", actual="0")
    >>> str(error), error.actual
    ('linear: width should be at least 1, got 0.', '0')
    """

    def __init__(
        self,
        problem: str = "",
        *,
        where: str = "",
        path: str = "",
        expected: str = "",
        actual: str = "",
        hint: str = "",
    ):
        super().__init__(problem)
        self.problem, self.where, self.path = problem, where, path
        self.expected, self.actual, self.hint = expected, actual, hint

    def body(self) -> str:
        """The message without the place: what is wrong, and the hint."""
        problem = self.problem or f"{self.expected}, got {self.actual}."
        if self.hint[:1].islower():
            return f"{problem.removesuffix('.')}; {self.hint}"
        return f"{problem} {self.hint}".rstrip()

    def __str__(self) -> str:
        last = self.path.rpartition("/")[2].partition("@")[0]
        where = self.where if last != self.where else ""  # `linear: linear:` says nothing twice
        return ": ".join(part for part in (self.path, where, self.body()) if part)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class InvalidValueError(NnfuncError, ValueError):
    """An argument has the right type and a value, shape or range that cannot be used."""


class InvalidTypeError(NnfuncError, TypeError):
    """An argument has a type or a dtype that cannot be used, or the call has the wrong arguments."""


class PatternError(InvalidValueError):
    """A path pattern matches nothing, or only what the patterns before it match. `pattern` is that pattern."""

    pattern: str = ""


class MissingKeyError(InvalidValueError):
    """A layer draws random numbers and was given no key."""


class InvalidIndexError(NnfuncError, IndexError):
    """An index, such as that of a trial, is out of range."""


class MissingFileError(NnfuncError, FileNotFoundError):
    """A file or folder does not exist."""


class ExistingFileError(NnfuncError, FileExistsError):
    """A file or folder that should be new exists already."""


class LockedFolderError(NnfuncError, BlockingIOError):
    """Another run or process is writing to the folder."""


class FileAccessError(NnfuncError, OSError):
    """A file cannot be read, written or fetched."""


class MissingPackageError(NnfuncError, ModuleNotFoundError):
    """An optional package is not installed."""


class InsufficientMemoryError(NnfuncError, MemoryError):
    """What was asked for does not fit into the memory of the device or the machine."""


class CheckpointError(InvalidValueError):
    """A checkpoint is damaged or missing; the message has the file, the damage, and what to do."""


class WorkerError(NnfuncError, RuntimeError):
    """The processes that run a part of the work end before they finish it."""


ERRORS: dict[type[Exception], type[NnfuncError]] = {
    ValueError: InvalidValueError,
    TypeError: InvalidTypeError,
    IndexError: InvalidIndexError,
    FileNotFoundError: MissingFileError,
    FileExistsError: ExistingFileError,
    BlockingIOError: LockedFolderError,
    OSError: FileAccessError,
    ModuleNotFoundError: MissingPackageError,
    MemoryError: InsufficientMemoryError,
}
"""The class of the family for each built-in type of exception."""


def __dir__() -> list[str]:
    return sorted(__all__)


def _rebuild(cls: type[NnfuncError], args: tuple[Any, ...], fields: dict[str, Any]) -> NnfuncError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error
