"""Dotted keys of a config, and the values that they name.

A dotted key is the name of a value in `Config.hypers`: `schedule.peak`; with an index for an element of
a list, `schedule.milestones[0]`; with a pattern for an element of a table by pattern,
`groups.rates[stem/**]`. A `KeyPath` is the tuple of its parts.
"""

import re
import tomllib
from functools import lru_cache
from typing import Any

from nnfunc.config.build import is_schedule
from nnfunc.config.config_errors import printable
from nnfunc.config.schema import FIXED_FACTORIES, TABLES, ValueType, factories, get_schema, parse_annotation
from nnfunc.errors import InvalidValueError

KeyPath = tuple[str | int, ...]
_PATH = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[[^\[\]]+\])*")
_STEP = re.compile(r"\[([^\[\]]+)\]|\.?([^.\[\]]+)")
_COUNT = re.compile(r"[0-9]{1,9}")
_MAX_PARTS = 32  # of a key path


@lru_cache(maxsize=1024)
def parse_key(path: str) -> KeyPath:
    """The parts of the dotted key `path`; () if a part is empty, or there are more than 32.

    >>> parse_key("schedule.milestones[0]"), parse_key("groups.rates[stem/**]"), parse_key("model.")
    (('schedule', 'milestones', 0), ('groups', 'rates', 'stem/**'), ())
    """
    parts = _STEP.findall(path) if _PATH.fullmatch(path) else [("", key) for key in path.split(".")]
    keys = [(inner.strip(), (inner or word).strip()) for inner, word in parts]
    if len(keys) > _MAX_PARTS or not all(key for _, key in keys):
        return ()
    return tuple(int(key) if inner and _COUNT.fullmatch(key) else key for inner, key in keys)


def format_key(path: KeyPath) -> str:
    """The key path as text for errors, such as `schedule.milestones[0]`. path: its parts."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    return printable("".join(steps).removeprefix("."))


def hyper_name(tables: Any, path: KeyPath) -> str:
    """The dotted key in `Config.hypers` of the value at `path` in `tables`.

    >>> hyper_name({"groups": {"rates": {"stem": 0.1}}}, ("groups", "rates", "stem"))
    'groups.rates[stem]'
    >>> hyper_name({"model": {"dropout": {"schedule": "linear"}}}, ("model", "dropout", "start"))
    'model.dropout.start'
    """
    text = ".".join(map(str, path[: argument_depth(path)]))
    for end in range(argument_depth(path), len(path)):
        around, step = get_value(tables, path[:end]), path[end]
        dotted = is_schedule(around) or not isinstance(around, dict | list)
        text += f".{step}" if dotted and isinstance(step, str) else f"[{step}]"
    return text


def get_value(tables: Any, path: KeyPath) -> Any:
    """The value at `path` in `tables`, or None if there is none."""
    for step in path:
        if isinstance(tables, dict):
            tables = tables.get(str(step))
        elif isinstance(tables, list) and isinstance(step, int) and step < len(tables):
            tables = tables[step]
        else:
            return None
    return tables


def set_value(tables: Any, path: KeyPath, value: Any, *, around: KeyPath = ()) -> Any:
    """A copy of the `tables` with `value` at `path`; missing tables are created.

    around: the path of the tables themselves, for errors.
    Raises: ValueError if a part of the path is not a table, or a list is too short.

    >>> set_value({"seed": 1}, ("train", "steps"), 5)
    {'seed': 1, 'train': {'steps': 5}}
    """
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(tables, dict):
        inner = set_value(tables.get(str(step), {}), rest, value, around=(*around, step))
        return {**tables, str(step): inner}
    if not (isinstance(tables, list) and isinstance(step, int)):
        raise InvalidValueError(f"{format_key(around)} is a value, not a table")
    if step >= len(tables):
        raise InvalidValueError(f"{format_key(around)} has {len(tables)} values, so there is no index {step}")
    inner = set_value(tables[step], rest, value, around=(*around, step))
    return [*tables[:step], inner, *tables[step + 1 :]]


def parse_value(text: str) -> Any:
    """The value of an override: `text` read as TOML, or the text itself if it is not TOML.

    Raises: ValueError when it is not UTF-8.
    """
    if not text.isascii() and text != text.encode(errors="replace").decode():
        raise InvalidValueError("should be UTF-8 text")
    try:
        parsed = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        return text.strip()
    return parsed["value"] if len(parsed) == 1 else text.strip()


def find_type(tables: Any, path: KeyPath) -> ValueType | None:
    """The type of the argument at `path`; None for whole tables, parts of a value and unknown keys.

    tables: not yet checked, so they may have any values.
    """
    if path == ("seed",):
        return parse_annotation(int)
    if len(path) < 2 or len(path) != argument_depth(path):
        return None
    table = str(path[0])
    name = path[1] if table == "augment" else FIXED_FACTORIES.get(table, get_value(tables, (table, "name")))
    if table not in TABLES or name not in list(factories(table)):
        return None
    return get_schema(table, name).types.get(str(path[-1]))


def argument_depth(path: KeyPath) -> int:
    """The number of parts of `path` that name an argument; more parts are inside its value."""
    return 3 if path[:1] == ("augment",) else 2
