"""From a file and overrides to a checked config, or to every mistake in them."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnfunc import check
from nnfunc.config.config import Config
from nnfunc.config.mistakes import SHELL, ConfigError, Mistakes, near, one_line, show, words_of
from nnfunc.config.recipe import tuples
from nnfunc.config.schema import TABLES, TASK, factories, schema
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
        if table in tables:
            resolved[table] = _table(table, tables[table], mistakes)
        elif table != "schedule":
            mistakes.add(table, f"is missing; write {TABLES[table]}")
    _check_rate(tables, resolved, mistakes)
    _try_out(resolved, mistakes)
    if mistakes.lines:
        raise ConfigError(mistakes.lines)
    return Config(resolved, mistakes.file)


def _table(table: str, given: Any, mistakes: Mistakes) -> dict[str, Any] | None:
    """One table with its defaults, or None when something is wrong with it."""
    if not isinstance(given, dict):
        mistakes.add(table, f"should be a table, such as {TABLES[table]}, got {show(given)}.")
        return None
    name = "train"
    if table != "train":
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
    own = schema(table, name)
    before = len(mistakes.lines)
    try:
        own.model.model_validate(given)
    except ValidationError as error:
        for key, kind in {str(e["loc"][0]): e["type"] for e in error.errors()}.items():
            mistakes.add(f"{table}.{key}", _problem(table, name, key, kind, given, mistakes))
    if len(mistakes.lines) > before:
        return None
    values = {key: given.get(key, own.defaults.get(key)) for key in own.kinds}
    values = {key: value for key, value in values.items() if value is not None}
    return values if table == "train" else {"name": name} | values


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
    from nnfunc.training.loop import Intervals
    from nnfunc.training.saving import Best

    def check_train(*, steps, log_every=None, evaluate_every=None, save_every=None, best, loop):
        check.size("train", steps=steps)
        Intervals.of(steps, log_every, evaluate_every, save_every)
        Best.of(best)

    config = Config(resolved, mistakes.file)
    good = {table for table, values in resolved.items() if values is not None}
    for table in [table for table in ("train", *TASK) if table in good]:
        if table == "train":
            function, values = check_train, resolved["train"]
        else:
            if table == "schedule" and "train" not in good:
                continue
            name, values = config.part(table)
            function = factories(table)[name]
            values = {"rate": 1e-3} | values if table == "optimizer" else values
        try:
            function(**{key: tuples(value) for key, value in values.items()})
        except (ValueError, TypeError, ArithmeticError) as error:
            good -= {table}
            if table != "schedule" or not _too_few_steps(config, mistakes):
                mistakes.refused(table, error)


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
