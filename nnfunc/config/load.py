"""Checks the tables of a config, and reports every mistake in them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nnfunc.config.build import map_schedules
from nnfunc.config.check_values import call_factories, check_combinations, check_learning_rate
from nnfunc.config.config import Config
from nnfunc.config.config_errors import COMMAND_LINE, ProblemList, describe, nearest_hint
from nnfunc.config.data_records import DataRecords
from nnfunc.config.file_paths import make_absolute
from nnfunc.config.schema import FIXED_FACTORIES, MESH_TABLES, OPTIONAL_TABLES, TABLES, factories, get_schema
from nnfunc.config.toml import read_tables, reject_comparison
from nnfunc.runs.run_folder import program_name


def load(path: str | Path, overrides: Sequence[str] = (), *, records: DataRecords | None = None) -> Config:
    """The checked config of a TOML file.

    path: the file; relative paths in it start from its folder. A table [sweep] is ignored, because only `nnfunc
        sweep` uses it.
    overrides: settings such as "schedule.peak=1e-2", which replace those of the file. A value is TOML, or otherwise
        text: `model.activation=gelu`. It may be a whole table: `optimizer={name="sgd", learning_rate=0.1}`.
    records: of the run's folder, as in `Config`.
    Raises: ConfigError with every mistake, each with the nearest valid key or name.
    """
    problems = ProblemList(str(path), (Path(path).absolute().parent, Path.cwd()))
    tables = read_tables(path, overrides, problems)
    reject_comparison(path, tables)
    if isinstance(tables.get("sweep"), dict):
        tables = {table: values for table, values in tables.items() if table != "sweep"}
    for key in sorted(key for key in problems.overridden if key.partition(".")[0] == "sweep"):
        hint = f"Use it with: {program_name()} sweep {path}"
        problems.add(key, "a single run has no table sweep", hint=hint, source=COMMAND_LINE)
    return _resolve(tables, problems, {}, records)


def resolve(
    tables: Mapping[str, Any],
    *,
    where: str = "config",
    overridden: Iterable[str] = (),
    data_cache: dict[str, Any] | None = None,
    folders: tuple[Path, Path] | None = None,
    records: DataRecords | None = None,
) -> Config:
    """The checked config of tables.

    tables: as TOML has them; they are not changed.
    where: the name of the config in errors.
    overridden: the keys of the command line, which errors of these name instead of `where`.
    data_cache, records: as in `Config`.
    folders: the config's folder and the current directory; with them relative paths become absolute.
    Raises: ConfigError with every mistake.

    >>> config = resolve({
    ...     "data": {"name": "digits", "batch_size": 64},
    ...     "model": {"name": "mlp", "widths": [64, 10]},
    ...     "objective": {"name": "classification"},
    ...     "optimizer": {"name": "sgd"},
    ...     "schedule": {"name": "constant", "value": 0.1},
    ...     "train": {"steps": 100},
    ... })
    >>> config.hypers["schedule.value"], config.train["steps"]
    (0.1, 100)
    """
    problems = ProblemList(where, folders, overridden)
    return _resolve(dict(tables), problems, {} if data_cache is None else data_cache, records)


def _resolve(
    tables: dict[str, Any], problems: ProblemList, data_cache: dict[str, Any], records: DataRecords | None
) -> Config:
    resolved = fill_defaults(tables, problems)
    check_learning_rate(tables, resolved, problems)
    check_combinations(resolved, problems)
    call_factories(resolved, problems, data_cache, records)
    problems.raise_all()
    return Config(resolved, problems.file, data_cache, records)


def fill_defaults(tables: Mapping[str, Any], problems: ProblemList) -> dict[str, Any]:
    """The tables with every default; a table with mistakes becomes None.

    Each value is checked against its type; other checks follow in `check_values`.
    tables: as TOML has them.
    problems: takes the mistakes.
    """
    known = ["seed", *TABLES]
    for key, value in tables.items():
        if key not in known:
            elsewhere = _find_key(str(key), tables)
            hint = nearest_hint(str(key), [name for name in (*known, "sweep") if name != key], list_names=True)
            hint = f"it is {' or '.join(elsewhere)}." if elsewhere else hint
            problems.add(str(key), f"there is no such {'table' if isinstance(value, dict) else 'key'}", hint=hint)
    seed = tables.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**32:
        problems.add("seed", expected="should be an integer from 0 to 2**32 - 1", actual=describe(seed))

    resolved: dict[str, Any] = {"seed": seed}
    for table in TABLES:
        if table in tables:
            resolved[table] = _check_table(table, make_absolute(table, tables[table], problems), problems)
        elif table not in OPTIONAL_TABLES:
            problems.add(table, "is missing", hint=f"write {TABLES[table]}")
    return resolved


def _find_key(key: str, tables: Mapping[str, Any]) -> list[str]:
    """The dotted keys of the config's tables whose last part is `key`."""
    dotted = []
    for table, values in tables.items():
        name = FIXED_FACTORIES.get(table) or (values.get("name") if isinstance(values, dict) else None)
        known = isinstance(name, str) and isinstance(values, dict) and table in TABLES and table != "augment"
        if known and name in factories(table) and key in get_schema(table, name).types:
            dotted.append(f"{table}.{key}")
    return dotted


def _check_table(table: str, values: Any, problems: ProblemList) -> dict[str, Any] | None:
    """A table with its defaults, or None if it has mistakes."""
    if table == "augment":
        return _check_augmentations(values, problems)
    if table in MESH_TABLES:
        return _check_mesh_table(table, values, problems)
    if not isinstance(values, dict):
        problems.add(table, expected=f"should be a table, such as {TABLES[table]}", actual=describe(values))
        return None
    if table in FIXED_FACTORIES:
        return _check_arguments(table, FIXED_FACTORIES[table], table, values, problems)
    if "name" not in values:
        problems.add(f"{table}.name", "is missing", hint=f"it should be {_one_of(factories(table))}.")
        return None
    if not _check_name(f"{table}.name", values["name"], list(factories(table)), problems):
        return None
    arguments = _check_arguments(table, values["name"], table, values, problems)
    return None if arguments is None else {"name": values["name"]} | arguments


def _check_mesh_table(table: str, values: Any, problems: ProblemList) -> Any:
    """A table of MESH_TABLES as it is, or None if it has another type."""
    value_type, text = MESH_TABLES[table]
    try:
        return TypeAdapter(value_type).validate_python(values, strict=True)
    except ValidationError:
        problems.add(table, expected=f"should be {text}, such as {TABLES[table]}", actual=describe(values))
        return None


def _check_augmentations(tables: Any, problems: ProblemList) -> dict[str, Any] | None:
    """The table `augment`, which has a table for each augmentation, by the name of its factory."""
    if not isinstance(tables, dict) or not all(isinstance(values, dict) for values in tables.values()):
        expected = f"should be tables by name, such as {TABLES['augment']}"
        problems.add("augment", expected=expected, actual=describe(tables))
        return None
    checked = {}
    for name, values in tables.items():
        path = f"augment.{name}"
        if name in factories("augment"):
            checked[name] = _check_arguments("augment", name, path, values, problems)
        else:
            hint = nearest_hint(name, factories("augment"), list_names=True)
            problems.add(path, "there is no such augmentation", hint=hint)
            checked[name] = None
    return None if None in checked.values() else checked


def _one_of(names: Iterable[str]) -> str:
    return f"one of {', '.join(map(repr, names))}"


def _check_name(path: str, name: Any, names: list[str], problems: ProblemList) -> bool:
    if isinstance(name, str) and name in names:
        return True
    actual = repr(name) if isinstance(name, str) else describe(name)
    problems.add(path, expected=f"should be {_one_of(names)}", actual=actual, hint=nearest_hint(name, names))
    return False


def _check_arguments(
    table: str, name: str, path: str, values: dict[str, Any], problems: ProblemList
) -> dict[str, Any] | None:
    """The arguments of a factory with its defaults, or None if they have mistakes."""
    schema = get_schema(table, name)
    count = len(problems.problems)
    traced = [key for key in values if key in schema.types and schema.types[key].traced]

    def check_schedule(key: str, schedule: dict[str, Any]) -> dict[str, Any]:
        name = schedule["schedule"]
        if not _check_name(f"{key}.schedule", name, list(factories("schedule")), problems):
            return schedule
        arguments = {k: argument for k, argument in schedule.items() if k != "schedule"}
        return {"schedule": name} | (_check_arguments("schedule", name, key, arguments, problems) or {})

    checked = {key: map_schedules(values[key], check_schedule, f"{path}.{key}") for key in traced}
    numbers = {key: map_schedules(values[key], lambda key, schedule: 1.0) for key in traced}
    try:
        schema.model.model_validate(values | numbers)
    except ValidationError as error:
        for key, error_type in {str(e["loc"][0]): e["type"] for e in error.errors()}.items():
            _add_problem(table, name, f"{path}.{key}", key, error_type, values, problems)
    if len(problems.problems) > count:
        return None
    values = values | checked
    filled = {key: values.get(key, schema.defaults.get(key)) for key in schema.types}
    return {key: value for key, value in filled.items() if value is not None}


EXAMPLES = {"decay": "0.999", "start": "1e-3", "peak": "1e-3", "learning_rate": "1e-3", "limit": "1.0"}
"""Values to suggest for arguments for which the example of their type would be a bad choice."""


def _add_problem(
    table: str, name: str, path: str, key: str, error_type: str, values: dict[str, Any], problems: ProblemList
) -> None:
    """Add the mistake in one argument. error_type: pydantic's name of the mistake."""
    schema = get_schema(table, name)
    shown_name = table if table in FIXED_FACTORIES else name
    if error_type == "missing":
        expected = schema.types[key]
        hint = f"{shown_name} needs {expected.singular}: write {key} = {EXAMPLES.get(key, expected.example)}"
        problems.add(path, "is missing", hint=hint)
    elif error_type == "extra_forbidden" and key in schema.python_only:
        problems.add(path, f"is an argument of {name} that only Python can give, not a config.")
    elif error_type == "extra_forbidden" and key in TABLES:
        problems.add(path, f"{shown_name} has no such key", hint=f"it is a separate table, {TABLES[key]}")
    elif error_type == "extra_forbidden" and key not in schema.types:
        hint = nearest_hint(key, schema.types, list_names=True)
        if f"{table}.name" in problems.overridden and path not in problems.overridden:
            hint += f" To replace the whole table: '{table}={{name=\"{name}\", ...}}'."
        actual = describe(values[key]).rsplit(" (", 1)[0]
        problems.add(path, expected=f"{shown_name} has no such key", actual=actual, hint=hint)
    else:
        expected = schema.types[key]
        size = " that 32 bits hold" if error_type in ("less_than", "greater_than_equal") else ""
        hint = "" if size else nearest_hint(values[key], expected.options)
        problems.add(path, expected=f"should be {expected.singular}{size}", actual=describe(values[key]), hint=hint)
