"""From a file and overrides to tables, not yet checked."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnfunc import check, documents
from nnfunc.config.errors import COMMAND_LINE, ConfigError, ProblemList, to_one_line
from nnfunc.config.key_path import format_key, parse_key, parse_value, set_value
from nnfunc.data.download import find_text_problem
from nnfunc.errors import NnfuncError
from nnfunc.runs.run_folder import command

__all__ = ["read_tables", "reject_comparison", "tables_of"]


def reject_comparison(path: str | Path, tables: Mapping[str, Any]) -> None:
    """Refuse the tables of a file that is for `nnfunc compare`. Raises: ConfigError."""
    if "every" in tables and "models" in tables:
        cure = f"Train it with: {command()} compare {path}"
        raise ConfigError([f"{path}: this is a comparison of several models, not one run. {cure}"])


def read_tables(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a TOML file after overrides, not yet checked. Raises: ConfigError."""
    mistakes = ProblemList(str(path))
    tables = tables_of(path, overrides, mistakes)
    if mistakes.lines:
        raise ConfigError(mistakes.lines)
    return tables


def tables_of(path: str | Path, overrides: Sequence[str], mistakes: ProblemList) -> dict[str, Any]:
    """The same, mistakes of the command line noted. Raises: ConfigError for those of the file."""
    tables = _read(Path(path))
    for override in overrides:
        tables = _override(tables, override, mistakes)
    return tables


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = documents.content(path)
        if trouble := find_text_problem(raw):
            problem = ". ".join(trouble)
        else:
            return tomllib.loads(raw.decode("utf-8-sig"))
    except FileNotFoundError:
        problem = "there is no such file"
        if path.parent.is_dir():
            names = sorted(other.name for other in path.parent.glob("*.toml"))
            problem += check.nearest(path.name, names)
        else:
            problem += f", and no folder {path.parent}."
    except IsADirectoryError:
        problem = "it is a folder, not a config file."
        if (path / "config.toml").is_file():
            problem += f" To go on with that run: {command()} resume {path}"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}."
    except (ValueError, RecursionError) as error:
        if isinstance(error, NnfuncError):
            raise ConfigError([str(error)]) from None
        problem = f"it is not valid TOML: {to_one_line(error)}"
    raise ConfigError([f"{path}: {problem}"])


def _override(tables: dict[str, Any], override: str, mistakes: ProblemList) -> dict[str, Any]:
    """The tables with the value of one `key=value`."""
    path, equals, text = override.partition("=")
    place = parse_key(path)
    if not equals or not place:
        wanted = "an override should be key=value, such as train.steps=2000"
        mistakes.lines.append(f"{COMMAND_LINE}: {wanted}, got {override!r}.")
        return tables
    try:
        tables = set_value(tables, place, parse_value(text))
    except ValueError as error:
        mistakes.lines.append(f"{COMMAND_LINE}: {format_key(place)}: {error}.")
    else:
        mistakes.overridden.add(".".join(map(str, place)))
    return tables
