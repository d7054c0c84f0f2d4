"""Relative file paths in a config, which start from the config's folder."""

import os
import typing
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnfunc.config.config_errors import ProblemList
from nnfunc.config.schema import FIXED_FACTORIES, RUN_TABLES, factories, get_schema
from nnfunc.data.download import data_folders

FILE_TABLES = ("data", *RUN_TABLES)
_CODECS = ("characters", "bytes")  # values of codec that are not files


def make_absolute(table: str, values: Any, problems: ProblemList) -> Any:
    """The values of a table, with the relative paths of existing files made absolute.

    A path of the file is looked up in the folder of the config, then, with a warning, in the current
    directory. A path of the command line is looked up in the current directory first. A file in a data folder
    of `nnfunc.data.download` keeps its short name.
    table: its name.
    values: as written, not yet checked.
    problems: with the folders and the overridden keys.
    """
    if problems.folders is None or not isinstance(values, dict) or table not in FILE_TABLES:
        return values
    name = FIXED_FACTORIES.get(table) or values.get("name")
    if not isinstance(name, str) or name not in factories(table):
        return values
    keys = [key for key in path_keys(table, name) if isinstance(values.get(key), str)]
    return values | {key: _absolute(table, name, key, values[key], problems) for key in keys}


@lru_cache
def path_keys(table: str, name: str) -> tuple[str, ...]:
    """The arguments that may be a file path. table: its name. name: of its factory."""
    if table in RUN_TABLES:
        return ("run",) if "run" in get_schema(table, name).types else ()
    hints = typing.get_type_hints(factories(table)[name])
    return tuple(key for key, hint in hints.items() if Path in typing.get_args(hint))


def _absolute(table: str, name: str, key: str, value: str, problems: ProblemList) -> str:
    path = Path(value).expanduser()
    if not value or path.is_absolute():
        return str(path) if value else value
    folder, current = problems.folders or (Path(), Path())
    from_command_line = problems.is_override(f"{table}.{key}")
    bases = (current, folder) if from_command_line else (folder, current)
    special = value in _CODECS or value == get_schema(table, name).defaults.get(key)
    for base in dict.fromkeys(bases):
        target = base / path
        if target.is_file() if special else os.path.exists(target):
            if base != bases[0] and not from_command_line:
                problem = f"{table}.{key}: {value} is not in {folder}, the folder of the config"
                warnings.warn(
                    f"{problems.file}: {problem}. The file in the current directory is used instead.", stacklevel=2
                )
            return os.path.abspath(target)
    known = special or any(os.path.exists(data_folder / path) for data_folder in data_folders())
    if known or folder == current or (key == "codec" and not path.suffix):
        return value
    return os.path.abspath(bases[0] / path)


def last_saved(run: str) -> float:
    """When the checkpoints of the run folder `run` last changed; programs compiled before are stale."""
    return max((path.stat().st_mtime for path in Path(run).glob("checkpoints/*")), default=0.0)
