"""Relative paths of a config: they belong to its folder."""

import os
import typing
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnfunc.config.errors import ProblemList
from nnfunc.config.schema import FIXED_FACTORIES, factories, get_schema
from nnfunc.data.download import data_folders

__all__ = ["last_saved", "make_absolute"]

_WORDS = ("characters", "bytes")  # codecs that are no files


def make_absolute(table: str, values: Any, mistakes: ProblemList) -> Any:
    """The table with its relative paths made absolute, those of files that are there.

    They are looked for in the folder of the config, then in the current directory, with a warning;
    those of the command line the other way round. What `nnfunc.data.download` finds stays as it is.
    """
    if mistakes.folders is None or not isinstance(values, dict) or table not in ("data", "lora"):
        return values
    name = FIXED_FACTORIES.get(table) or values.get("name")
    if not isinstance(name, str) or name not in factories(table):
        return values
    keys = [key for key in _path_keys(table, name) if isinstance(values.get(key), str)]
    return values | {key: _absolute(table, name, key, values[key], mistakes) for key in keys}


@lru_cache
def _path_keys(table: str, name: str) -> tuple[str, ...]:
    """The arguments that may be a path."""
    if table == "lora":
        return ("run",)
    hints = typing.get_type_hints(factories(table)[name])
    return tuple(key for key, hint in hints.items() if Path in typing.get_args(hint))


def _absolute(table: str, name: str, key: str, value: str, mistakes: ProblemList) -> str:
    path = Path(value).expanduser()
    if not value or path.is_absolute():
        return str(path) if value else value
    folder, current = mistakes.folders or (Path(), Path())
    by_shell = mistakes.is_override(f"{table}.{key}")
    bases = (current, folder) if by_shell else (folder, current)
    special = value in _WORDS or value == get_schema(table, name).defaults.get(key)
    for base in dict.fromkeys(bases):
        target = base / path
        if target.is_file() if special else os.path.exists(target):
            if base != bases[0] and not by_shell:
                problem = f"{table}.{key}: {value} is not in {folder}, the folder of the config"
                hint = "The one in the current directory is taken; relative paths belong to the config."
                warnings.warn(f"{mistakes.file}: {problem}. {hint}", stacklevel=2)
            return os.path.abspath(target)
    known = special or any(os.path.exists(place / path) for place in data_folders())
    if known or folder == current or (key == "codec" and not path.suffix):
        return value
    return os.path.abspath(bases[0] / path)


def last_saved(run: str) -> float:
    """When the checkpoints of a run last changed: what is compiled of others is out of date."""
    return max((path.stat().st_mtime for path in Path(run).glob("checkpoints/*")), default=0.0)
