"""Safe reading of files in a run's folder, which may be cut short, edited, or of another type.

A form describes the value in a JSON file. It is a type, or a tuple of types and None; a range, for an integer
in it; [form], for a list; {"name": form, "name?": form}, for a table with required and optional names, which
may have more names; {str: form}, for a table with any names.
"""

import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.errors import NnfuncError

MAX_BYTES = 2**28  # ten times the manifest of a sweep of 100,000 trials
TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    dict: "a table",
    list: "a list",
    None: "nothing",
}


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file. Pipes are refused, because reading them could block.

    path: of the file.
    most: the largest size in bytes.
    Raises: OSError; ValueError when it is not a regular file, or larger than most.
    """
    nonblock = getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblock)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            check.fail(str(path), f"it should be a file, but is {file_type(status.st_mode)}.")
        if status.st_size > most:
            check.fail(str(path), expected=f"it should have at most {most:,} bytes", actual=f"{status.st_size:,}")
        return file.read()


def make_parent(path: Path) -> None:
    """Make the folder of a file that a user names, and those above it. path: of the file."""
    path.absolute().parent.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file completely or not at all: a reader sees the previous content or the new one.

    path: of the file.
    content: of the file.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")  # others may write it at the same time
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path, form: Any, hint: str = "It was edited, or is damaged.") -> Any:
    """The value in a JSON file.

    path: of the file.
    form: of the value.
    hint: for the error when the value has another form.
    Raises: OSError; ValueError when the value has another form.
    """
    try:
        value = json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, NnfuncError):
            raise
        reason = str(error).split(": line")[0] or type(error).__name__
        check.fail(str(path), f"it is not JSON ({reason}).", hint=hint)
    problem = find_mismatch(value, form)
    if problem:
        check.fail(str(path), f"{problem}.", hint=hint)
    return value


def find_mismatch(value: Any, form: Any, path: str = "") -> str:
    """The first mismatch between a value and a form, as a clause; "" if there is none.

    value: as `json.loads` gives it.
    form: see the module.
    path: of the value, for the message.

    >>> find_mismatch({"runs": "x"}, {"runs": int}), find_mismatch({"runs": [1, 2]}, {"runs": [int]})
    ("runs should be an integer, got 'x' (str)", '')
    """
    if isinstance(form, dict | list):
        if not isinstance(value, type(form)):
            return _describe_mismatch(value, TYPE_NAMES[type(form)], path)
        return next(filter(None, _inner_mismatches(value, form, path)), "")
    options = form if isinstance(form, tuple) else (form,)
    if any(_matches(value, option) for option in options):
        return ""
    return _describe_mismatch(value, " or ".join(map(_describe_option, options)), path)


def _inner_mismatches(value: Any, form: Any, path: str) -> Iterator[str]:
    start = f"{path}." if path else ""
    if isinstance(form, list):
        yield from (find_mismatch(item, form[0], f"{start}{i}") for i, item in enumerate(value))
    elif str in form:
        yield from (find_mismatch(item, form[str], f"{start}{name}") for name, item in value.items())
    else:
        for key, inner in form.items():
            name = key.removesuffix("?")
            if name in value:
                yield find_mismatch(value[name], inner, f"{start}{name}")
            elif name == key:
                yield f"{start}{name} is missing"


def _describe_option(option: Any) -> str:
    if isinstance(option, range):
        return f"an integer from {option.start} to {option.stop - 1}"
    return TYPE_NAMES[option]


def _matches(value: Any, option: Any) -> bool:
    if option is None:
        return value is None
    if isinstance(option, range):
        return _matches(value, int) and value in option
    if option in (int, float) and isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, option)


def _describe_mismatch(value: Any, expected: str, path: str) -> str:
    try:
        actual = check.describe(value)
    except (ValueError, RecursionError):  # integers of 5,000 digits, deeply nested lists
        actual = f"something else ({type(value).__name__})"
    return f"{path or 'it'} should be {expected}, got {actual}"


def file_type(mode: int) -> str:
    """The type of a file as text, such as "a folder". mode: of `os.stat`."""
    for is_type, text in (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if is_type(mode):
            return text
    return "a device"


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder after all links are resolved. path, folder: may be relative."""
    return os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)


def find_outside_link(folder: Path) -> str:
    """The problem with the first link out of a folder, or special file in it; "" if there is none. folder: its path."""
    for root, folders, files in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            name = path.relative_to(folder)
            if stat.S_ISLNK(mode) and not is_inside(path, folder):
                return f"{name} is a link out of the folder, which is not followed"
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return f"{name} should be a file, but is {file_type(mode)}"
    return ""
