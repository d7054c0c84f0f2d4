"""From a file and overrides to a checked config, or to every mistake in them."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnfunc import check
from nnfunc.config.config import Config
from nnfunc.config.mistakes import SHELL, ConfigError, Mistakes, near, one_line, show, words_of
from nnfunc.config.recipe import is_scheduled, tuples
from nnfunc.config.schema import OPTIONAL, SOLE, TABLES, WRAPPERS, factories, schema
from nnfunc.runlog import command

__all__ = ["load", "overridden", "resolve"]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The checked config of a TOML file, after overrides such as "schedule.peak=1e-2".

    The value of an override is TOML, and text where it is not: `model.activation=gelu`. It may be a
    whole table: `optimizer={name="sgd", rate=0.1}`.
    Raises: ConfigError with every mistake, each with the nearest valid key or name.
    """
    mistakes = Mistakes(str(path))
    tables = _overridden(path, overrides, mistakes)
    if "every" in tables and "models" in tables:
        cure = f"Train it with: {command()} compare {path}"
        raise ConfigError([f"{path}: this is a comparison of several models, not one run. {cure}"])
    return _resolve(tables, mistakes)


def overridden(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a TOML file after overrides, not yet checked. Raises: ConfigError."""
    mistakes = Mistakes(str(path))
    tables = _overridden(path, overrides, mistakes)
    if mistakes.lines:
        raise ConfigError(mistakes.lines)
    return tables


def _overridden(path: str | Path, overrides: Sequence[str], mistakes: Mistakes) -> dict[str, Any]:
    tables = _read(Path(path))
    for override in overrides:
        _override(tables, override, mistakes)
    return tables


def resolve(tables: Mapping[str, Any], *, where: str = "config") -> Config:
    """The checked config of tables as TOML has them. Raises: ConfigError with every mistake.

    >>> config = resolve({
    ...     "data": {"name": "digits", "batch_size": 64},
    ...     "model": {"name": "mlp", "widths": [64, 10]},
    ...     "objective": {"name": "classification"},
    ...     "optimizer": {"name": "sgd", "rate": 0.1},
    ...     "train": {"steps": 100},
    ... })
    >>> config.hypers["optimizer.rate"], config.train["steps"]
    (0.1, 100)
    """
    return _resolve(dict(tables), Mistakes(where))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        problem = "there is no such file"
        if path.parent.is_dir():
            names = sorted(other.name for other in path.parent.glob("*.toml"))
            problem += check.nearest(path.name, names)
        else:
            problem += f", and no folder {path.parent}."
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}."
    except UnicodeDecodeError as error:
        problem = f"it is not text in UTF-8 (at byte {error.start})."
    except (ValueError, RecursionError) as error:
        problem = f"it is not valid TOML: {one_line(error)}"
    raise ConfigError([f"{path}: {problem}"])


def _override(tables: dict[str, Any], override: str, mistakes: Mistakes) -> None:
    """Put the value of one `key=value` into the tables."""
    path, equals, text = override.partition("=")
    *parents, last = words = [word.strip() for word in path.split(".")]
    if not equals or not all(words):
        wanted = "an override should be key=value, such as train.steps=2000"
        mistakes.lines.append(f"{SHELL}: {wanted}, got {override!r}.")
        return
    inner: Any = tables
    for place, parent in enumerate(parents, start=1):
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            problem = f"{words_of('.'.join(words[:place]))} is a value, not a table"
            mistakes.lines.append(f"{SHELL}: {words_of('.'.join(words))}: {problem}.")
            return
    inner[last] = _value(text)
    mistakes.overridden.add(".".join(words))


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        return text.strip()
    return parsed["value"] if len(parsed) == 1 else text.strip()


def _resolve(tables: dict[str, Any], mistakes: Mistakes) -> Config:
    known = ["seed", *TABLES]
    for key, value in tables.items():
        if key not in known:
            kind = "table" if isinstance(value, dict) else "key"
            mistakes.add(str(key), f"there is no such {kind}{check.nearest(str(key), known)}")
    seed = tables.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**32:
        mistakes.add("seed", f"should be a whole number from 0 to 2**32 - 1, got {show(seed)}.")

    resolved: dict[str, Any] = {"seed": seed}
    for table in TABLES:
        if table in tables and table == "augment":
            resolved[table] = _tables(table, tables[table], mistakes)
        elif table in tables:
            resolved[table] = _table(table, tables[table], mistakes)
        elif table not in OPTIONAL:
            mistakes.add(table, f"is missing; write {TABLES[table]}")
    _check_rate(tables, resolved, mistakes)
    _try_out(resolved, mistakes)
    if mistakes.lines:
        raise ConfigError(mistakes.lines)
    return Config(resolved, mistakes.file)


def _tables(table: str, given: Any, mistakes: Mistakes) -> dict[str, Any] | None:
    """A table of tables, each called by the name of its factory, or None when something is wrong."""
    if not isinstance(given, dict) or not all(isinstance(v, dict) for v in given.values()):
        mistakes.add(
            table, f"should be tables by name, such as {TABLES[table]}, got {show(given)}."
        )
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


def _table(table: str, given: Any, mistakes: Mistakes) -> dict[str, Any] | None:
    """One table with its defaults, or None when something is wrong with it."""
    if not isinstance(given, dict):
        mistakes.add(table, f"should be a table, such as {TABLES[table]}, got {show(given)}.")
        return None
    if table in SOLE:
        return _checked(table, SOLE[table], table, given, mistakes)
    name = given.get("name")
    names = list(factories(table))
    words = f"one of {', '.join(map(repr, names))}"
    if "name" not in given:
        mistakes.add(f"{table}.name", f"is missing; it should be {words}.")
        return None
    if not isinstance(name, str) or name not in names:
        got = repr(name) if isinstance(name, str) else show(name)
        mistakes.add(f"{table}.name", f"should be {words}, got {got}{near(name, names)}")
        return None
    values = _checked(table, name, table, given, mistakes)
    return None if values is None else {"name": name} | values


def _checked(
    table: str, name: str, path: str, given: dict[str, Any], mistakes: Mistakes
) -> dict[str, Any] | None:
    """The values of a table with its defaults, or None when something is wrong with them."""
    own = schema(table, name)
    before = len(mistakes.lines)
    scheduled = {
        key: _scheduled(f"{path}.{key}", value, mistakes)
        for key, value in given.items()
        if is_scheduled(value) and key in own.kinds and own.kinds[key].traced
    }
    plain = {key: 1.0 if key in scheduled else value for key, value in given.items()}
    try:
        own.model.model_validate(plain)
    except ValidationError as error:
        for key, kind in {str(e["loc"][0]): e["type"] for e in error.errors()}.items():
            mistakes.add(f"{path}.{key}", _problem(table, name, key, kind, given, mistakes))
    if len(mistakes.lines) > before:
        return None
    given = given | scheduled
    values = {key: given.get(key, own.defaults.get(key)) for key in own.kinds}
    return {key: value for key, value in values.items() if value is not None}


def _scheduled(path: str, given: dict[str, Any], mistakes: Mistakes) -> dict[str, Any]:
    """A schedule in the place of a number, with its defaults."""
    arguments = {key: value for key, value in given.items() if key != "schedule"}
    name, names = given["schedule"], list(factories("schedule"))
    if name not in names:
        words = f"should be one of {', '.join(map(repr, names))}, got {show(name)}"
        mistakes.add(f"{path}.schedule", f"{words}{near(name, names)}")
        return given
    return {"schedule": name} | (_checked("schedule", name, path, arguments, mistakes) or {})


def _problem(
    table: str, name: str, key: str, kind: str, given: dict[str, Any], mistakes: Mistakes
) -> str:
    """What is wrong with one key, in words."""
    own = schema(table, name)
    if kind == "missing":
        wanted = own.kinds[key]
        return f"is missing; {name} needs {wanted.one}: write {key} = {wanted.example}"
    if kind == "extra_forbidden" and key not in own.kinds:
        if key in own.python:
            return f"is an argument of {name} that only Python can give, not a config."
        got = show(given[key]).rsplit(" (", 1)[0]
        problem = f"{name} has no such key, got {got}{check.nearest(key, own.kinds)}"
        over = mistakes.overridden
        cure = f" To replace the whole table: '{table}={{name=\"{name}\", ...}}'."
        renamed = f"{table}.name" in over and f"{table}.{key}" not in over
        return problem + cure if renamed else problem
    wanted = own.kinds[key]
    return f"should be {wanted.one}, got {show(given[key])}{near(given[key], wanted.options)}"


def _check_rate(tables: dict[str, Any], resolved: dict[str, Any], mistakes: Mistakes) -> None:
    """The learning rate is given once, by the schedule or by optimizer.rate, and is not negative."""
    optimizer, schedule = resolved.get("optimizer"), resolved.get("schedule")
    rates = {f"schedule.{key}": value for key, value in (schedule or {}).items()}
    rates["optimizer.rate"] = (optimizer or {}).get("rate")
    for place, value in rates.items():
        if isinstance(value, int | float) and not value >= 0:
            mistakes.add(place, f"should be at least 0, got {value}.")
    if optimizer is None:
        return
    if "schedule" in tables and "rate" in optimizer:
        mistakes.add("optimizer.rate", "the schedule gives the rate; leave out one of the two.")
    if "schedule" not in tables and "rate" not in optimizer:
        problem = f"is missing; write rate = 1e-3, or a table {TABLES['schedule']}"
        mistakes.add("optimizer.rate", problem)


def _try_out(resolved: dict[str, Any], mistakes: Mistakes) -> None:
    """Call each factory once with the numbers as written, so that what it refuses is known now."""
    from nnfunc import optimizers
    from nnfunc.training.loop import Intervals
    from nnfunc.training.saving import Best

    def check_train(
        *, steps, log_every=None, evaluate_every=None, save_every=None, watch_every=None,
        best="min loss", loop="auto", rollback=0, rollback_factor=0.5,
    ):  # fmt: skip
        check.size("train", steps=steps)
        check.size("train", 0, rollback=rollback)
        check.number("train", 0, 1, open_low=True, rollback_factor=rollback_factor)
        Intervals.of(steps, log_every, evaluate_every, save_every, watch_every)
        Best.of(best)

    good = {table for table, values in resolved.items() if values is not None}
    if "train" in good:
        try:
            check_train(**resolved["train"])
        except (ValueError, TypeError) as error:
            good -= {"train"}
            mistakes.refused("train", error)
    of_any_length = {} if "train" in good else {"train": {"steps": 10**9}}
    config = Config({t: v for t, v in resolved.items() if t in good} | of_any_length, mistakes.file)
    for path in config.places:
        try:
            table, name, values = config.part(path)
            values = {key: _at_start(value) for key, value in values.items()}
            first = (optimizers.sgd(0.1),) if table in WRAPPERS else ()
            values = {"rate": 1e-3} | values if table == "optimizer" else values
            factories(table)[name](*first, **{key: tuples(v) for key, v in values.items()})
        except (ValueError, TypeError, ArithmeticError) as error:
            if path != "schedule" or not _too_few_steps(config, mistakes):
                mistakes.refused(path, error)


def _at_start(value: Any) -> Any:
    """The number that a schedule begins with; any other value as it is."""
    if not is_scheduled(value):
        return value
    values = {key: tuples(inner) for key, inner in value.items() if key != "schedule"}
    return float(factories("schedule")[value["schedule"]](**values)(0))


def _too_few_steps(config: Config, mistakes: Mistakes) -> bool:
    """Whether a schedule that ends at train.steps has parts longer than those, which is noted then."""
    schedule, steps = config.tables["schedule"], config.tables["train"]["steps"]
    parts = {key: n for key, n in schedule.items() if key in ("warmup_steps", "decay_steps")}
    if "total_steps" in schedule or not parts or sum(parts.values()) < steps or steps < 2:
        return False
    named = " and ".join(f"schedule.{key} = {n:g}" for key, n in parts.items())
    fewer = [f"schedule.{key}={max(int(steps * n / sum(parts.values()) / 2), 1)}"
             for key, n in parts.items()]  # fmt: skip
    cure = f"Give all of them, such as {' '.join([f'train.steps={steps}', *fewer])}."
    keys = ["train.steps", *(f"schedule.{key}" for key in parts)]
    blamed = next((key for key in keys if key in mistakes.overridden), keys[0])
    mistakes.add(blamed, f"train.steps = {steps} is too few for {named}. {cure}")
    return True
