"""Reads a TOML file and overrides as tables, which are not yet checked."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnfunc import check, documents
from nnfunc.config.config_errors import COMMAND_LINE, ConfigError, ProblemList, fail, to_one_line
from nnfunc.config.key_path import format_key, parse_key, parse_value, set_value
from nnfunc.data.download import find_text_problem
from nnfunc.errors import NnfuncError
from nnfunc.runs.run_folder import program_name


def reject_comparison(path: str | Path, tables: Mapping[str, Any]) -> None:
    """Refuse the config of a comparison where that of one run is needed.

    path: the file.
    tables: its content.
    Raises: ConfigError.
    """
    if "every" in tables and "models" in tables:
        problem = "this is a comparison of several models, not one run"
        fail(str(path), "", problem, hint=f"Train it with: {program_name()} compare {path}")


def read_tables(path: str | Path, overrides: Sequence[str] = (), problems: ProblemList | None = None) -> dict[str, Any]:
    """The tables of a TOML file after overrides, not yet checked.

    path: the file.
    overrides: such as "train.steps=2000".
    problems: takes the mistakes in the overrides, and the overridden keys; without it these mistakes are raised.
    Raises: ConfigError for a file that cannot be read.
    """
    collected = ProblemList(str(path)) if problems is None else problems
    tables = _read_file(Path(path))
    for override in overrides:
        tables = _apply_override(tables, override, collected)
    if problems is None:
        collected.raise_all()
    return tables


def _read_file(path: Path) -> dict[str, Any]:
    try:
        raw = documents.read_bytes(path)
        if trouble := find_text_problem(raw):
            problem = ". ".join(trouble)
        else:
            return tomllib.loads(raw.decode("utf-8-sig"))
    except FileNotFoundError:
        problem = f"there is no such file, and no folder {path.parent}."
        if path.parent.is_dir():
            names = sorted(other.name for other in path.parent.glob("*.toml"))
            problem = f"there is no such file{check.nearest(path.name, names)}"
    except IsADirectoryError:
        problem = "it is a folder, not a config file."
        if (path / "config.toml").is_file():
            problem += f" To resume that run: {program_name()} resume {path}"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}."
    except (ValueError, RecursionError) as error:
        if isinstance(error, NnfuncError):
            raise ConfigError([str(error)]) from None
        problem = f"it is not valid TOML: {to_one_line(error)}"
    raise ConfigError([f"{path}: {problem}"])


def _apply_override(tables: dict[str, Any], override: str, problems: ProblemList) -> dict[str, Any]:
    """The tables with one override, such as `train.steps=2000`."""
    key, equals, text = override.partition("=")
    path = parse_key(key)
    if not equals or not path:
        expected = "an override should be key=value, such as train.steps=2000"
        problems.add("", expected=expected, actual=repr(override), source=COMMAND_LINE)
        return tables
    try:
        tables = set_value(tables, path, parse_value(text))
    except ValueError as error:
        problems.add(format_key(path), str(error), source=COMMAND_LINE)
    else:
        problems.overridden.add(".".join(map(str, path)))
    return tables
