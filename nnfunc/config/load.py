"""From tables to a checked config, or to every mistake in them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnfunc import check
from nnfunc.config.build import is_schedule
from nnfunc.config.check_values import call_factories, check_combinations, check_learning_rate
from nnfunc.config.config import Config
from nnfunc.config.data_records import DataRecords
from nnfunc.config.errors import COMMAND_LINE, ConfigError, ProblemList, describe, printable, suggest
from nnfunc.config.file_paths import make_absolute
from nnfunc.config.schema import FIXED_FACTORIES, OPTIONAL_TABLES, TABLES, factories, get_schema
from nnfunc.config.toml import read_tables, reject_comparison, tables_of
from nnfunc.runs.run_folder import command

__all__ = ["fill_defaults", "load", "read_tables", "resolve"]


def load(path: str | Path, overrides: Sequence[str] = (), *, records: DataRecords | None = None) -> Config:
    """The checked config of a TOML file, after overrides such as "schedule.peak=1e-2".

    The value of an override is TOML, and text where it is not: `model.activation=gelu`. It may be a
    whole table: `optimizer={name="sgd", learning_rate=0.1}`. A table [sweep] is passed over, not read: it is
    of `nnfunc sweep`, and one run trains what the rest of the file says. Relative paths belong to the
    file's folder. records: of the run that the file is of, as of `Config`.
    Raises: ConfigError with every mistake, each with the nearest valid key or name.
    """
    mistakes = ProblemList(str(path), (Path(path).absolute().parent, Path.cwd()))
    tables = tables_of(path, overrides, mistakes)
    reject_comparison(path, tables)
    if isinstance(tables.get("sweep"), dict):
        tables = {table: values for table, values in tables.items() if table != "sweep"}
    for given in sorted(p for p in mistakes.overridden if p.partition(".")[0] == "sweep"):
        cure = f"Give it to: {command()} sweep {path}"
        mistakes.lines.append(f"{COMMAND_LINE}: {printable(given)}: one run reads no sweep. {cure}")
    return _resolve(tables, mistakes, {}, records)


def resolve(
    tables: Mapping[str, Any],
    *,
    where: str = "config",
    overridden: Iterable[str] = (),
    data_cache: dict[str, Any] | None = None,
    folders: tuple[Path, Path] | None = None,
    records: DataRecords | None = None,
) -> Config:
    """The checked config of tables as TOML has them. Raises: ConfigError with every mistake.

    overridden: the paths that the command line gave, which errors then name instead of `where`. shelf:
    of data sets that are loaded already, and records: as of `Config`. folders: the config's and the
    current one; with them relative paths become absolute.

    >>> config = resolve({
    ...     "data": {"name": "digits", "batch_size": 64},
    ...     "model": {"name": "mlp", "widths": [64, 10]},
    ...     "objective": {"name": "classification"},
    ...     "optimizer": {"name": "sgd", "learning_rate": 0.1},
    ...     "train": {"steps": 100},
    ... })
    >>> config.hypers["optimizer.learning_rate"], config.train["steps"]
    (0.1, 100)
    """
    mistakes = ProblemList(where, folders)
    mistakes.overridden |= set(overridden)
    return _resolve(dict(tables), mistakes, {} if data_cache is None else data_cache, records)


def _resolve(
    tables: dict[str, Any], mistakes: ProblemList, shelf: dict[str, Any], records: DataRecords | None
) -> Config:
    resolved = fill_defaults(tables, mistakes)
    check_learning_rate(tables, resolved, mistakes)
    check_combinations(resolved, mistakes)
    call_factories(resolved, mistakes, shelf, records)
    if mistakes.lines:
        raise ConfigError(mistakes.lines)
    return Config(resolved, mistakes.file, shelf, records)


def fill_defaults(tables: Mapping[str, Any], mistakes: ProblemList) -> dict[str, Any]:
    """The tables with every default; a table is None where the schema of its factory refuses it.

    What several values say together, and what factories say of them, is not looked at.
    """
    known = ["seed", *TABLES]
    for key, value in tables.items():
        if key not in known:
            kind = "table" if isinstance(value, dict) else "key"
            places = _places(str(key), tables)
            hint = check.nearest(str(key), [name for name in (*known, "sweep") if name != key])
            other = f"; it is {' or '.join(places)}." if places else hint
            mistakes.add(str(key), f"there is no such {kind}{other}")
    seed = tables.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**32:
        mistakes.add("seed", f"should be an integer from 0 to 2**32 - 1, got {describe(seed)}.")

    resolved: dict[str, Any] = {"seed": seed}
    for table in TABLES:
        if table in tables and table == "augment":
            resolved[table] = _tables(table, tables[table], mistakes)
        elif table in tables:
            values = make_absolute(table, tables[table], mistakes)
            resolved[table] = _table(table, values, mistakes)
        elif table not in OPTIONAL_TABLES:
            mistakes.add(table, f"is missing; write {TABLES[table]}")
    return resolved


def _places(key: str, tables: Mapping[str, Any]) -> list[str]:
    """The tables of the config in which there is such a key."""
    found = []
    for table in TABLES:
        given = tables.get(table)
        name = FIXED_FACTORIES.get(table) or (given.get("name") if isinstance(given, dict) else None)
        known = isinstance(name, str) and isinstance(given, dict) and name in factories(table)
        if known and table != "augment" and key in get_schema(table, name).types:
            found.append(f"{table}.{key}")
    return found


def _tables(table: str, given: Any, mistakes: ProblemList) -> dict[str, Any] | None:
    """A table of tables, each called by the name of its factory, or None when something is wrong."""
    if not isinstance(given, dict) or not all(isinstance(v, dict) for v in given.values()):
        mistakes.add(table, f"should be tables by name, such as {TABLES[table]}, got {describe(given)}.")
        return None
    names = list(factories(table))
    made = {}
    for name, values in given.items():
        if name in names:
            made[name] = _checked(table, name, f"{table}.{name}", values, mistakes)
        else:
            known = check.nearest(name, names)
            mistakes.add(f"{table}.{name}", f"there is no such {table}{known}")
            made[name] = None
    return None if None in made.values() else made


def _table(table: str, given: Any, mistakes: ProblemList) -> dict[str, Any] | None:
    """One table with its defaults, or None when something is wrong with it."""
    if not isinstance(given, dict):
        mistakes.add(table, f"should be a table, such as {TABLES[table]}, got {describe(given)}.")
        return None
    if table in FIXED_FACTORIES:
        return _checked(table, FIXED_FACTORIES[table], table, given, mistakes)
    name = given.get("name")
    names = list(factories(table))
    words = f"one of {', '.join(map(repr, names))}"
    if "name" not in given:
        mistakes.add(f"{table}.name", f"is missing; it should be {words}.")
        return None
    if not isinstance(name, str) or name not in names:
        got = repr(name) if isinstance(name, str) else describe(name)
        mistakes.add(f"{table}.name", f"should be {words}, got {got}{suggest(name, names)}")
        return None
    values = _checked(table, name, table, given, mistakes)
    return None if values is None else {"name": name} | values


def _checked(table: str, name: str, path: str, given: dict[str, Any], mistakes: ProblemList) -> dict[str, Any] | None:
    """The values of a table with its defaults, or None when something is wrong with them."""
    own = get_schema(table, name)
    before = len(mistakes.lines)
    traced = {key for key in given if key in own.types and own.types[key].traced}
    scheduled = {key: _scheduled(f"{path}.{key}", given[key], mistakes) for key in traced}
    try:
        own.model.model_validate({k: _plain(v) if k in traced else v for k, v in given.items()})
    except ValidationError as error:
        for key, kind in {str(e["loc"][0]): e["type"] for e in error.errors()}.items():
            mistakes.add(f"{path}.{key}", _problem(table, name, key, kind, given, mistakes))
    if len(mistakes.lines) > before:
        return None
    given = given | scheduled
    values = {key: given.get(key, own.defaults.get(key)) for key in own.types}
    return {key: value for key, value in values.items() if value is not None}


def _scheduled(path: str, given: Any, mistakes: ProblemList) -> Any:
    """The value, each schedule in it that stands in the place of a number with its defaults."""
    if not is_schedule(given):
        if isinstance(given, dict):
            return {k: _scheduled(f"{path}[{k}]", v, mistakes) for k, v in given.items()}
        return [_scheduled(path, v, mistakes) for v in given] if isinstance(given, list) else given
    arguments = {key: value for key, value in given.items() if key != "schedule"}
    name, names = given["schedule"], list(factories("schedule"))
    if name not in names:
        words = f"should be one of {', '.join(map(repr, names))}, got {describe(name)}"
        mistakes.add(f"{path}.schedule", f"{words}{suggest(name, names)}")
        return given
    return {"schedule": name} | (_checked("schedule", name, path, arguments, mistakes) or {})


def _plain(value: Any) -> Any:
    """The value, with a number for each schedule in it."""
    if is_schedule(value):
        return 1.0
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


_USUAL = {"decay": "0.999", "start": "1e-3", "peak": "1e-3", "learning_rate": "1e-3", "limit": "1.0"}
"""Values to write for arguments that have no default and whose example would do harm."""


def _problem(table: str, name: str, key: str, kind: str, given: dict[str, Any], mistakes: ProblemList) -> str:
    """What is wrong with one key, in words."""
    own = get_schema(table, name)
    if kind == "missing":
        wanted = own.types[key]
        example = _USUAL.get(key, wanted.example)
        return f"is missing; {name} needs {wanted.singular}: write {key} = {example}"
    if kind == "extra_forbidden" and key not in own.types:
        if key in own.python_only:
            return f"is an argument of {name} that only Python can give, not a config."
        got = describe(given[key]).rsplit(" (", 1)[0]
        owner = table if table in FIXED_FACTORIES else name
        problem = f"{owner} has no such key, got {got}{check.nearest(key, own.types)}"
        if key in TABLES:
            return f"{owner} has no such key; it is a table of its own, {TABLES[key]}"
        over = mistakes.overridden
        cure = f" To replace the whole table: '{table}={{name=\"{name}\", ...}}'."
        renamed = f"{table}.name" in over and f"{table}.{key}" not in over
        return problem + cure if renamed else problem
    wanted = own.types[key]
    if kind in ("less_than", "greater_than_equal"):
        return f"should be {wanted.singular} that 32 bits hold, got {describe(given[key])}."
    return f"should be {wanted.singular}, got {describe(given[key])}{suggest(given[key], wanted.options)}"
