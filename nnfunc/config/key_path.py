"""Where a value stands in the tables of a config: what a path names, and values put there.

A path is keys with dots between them, such as `schedule.peak`. A number of a list has its place in
brackets, `schedule.milestones[0]`, and what belongs to a pattern has the pattern there,
`groups.rates[stem/**]`: the names that `Config.hypers` gives them.
"""

import re
import tomllib
from functools import lru_cache
from typing import Any

from nnfunc.config.build import is_schedule
from nnfunc.config.errors import printable
from nnfunc.config.schema import FIXED_FACTORIES, TABLES, ValueType, factories, get_schema, parse_annotation

__all__ = [
    "KeyPath",
    "argument_depth",
    "find_type",
    "format_key",
    "get_value",
    "hyper_name",
    "parse_key",
    "parse_value",
    "set_value",
]

KeyPath = tuple[str | int, ...]
_PATH = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[[^\[\]]+\])*")
_STEP = re.compile(r"\[([^\[\]]+)\]|\.?([^.\[\]]+)")
_COUNT = re.compile(r"[0-9]{1,9}")
_DEEPEST = 32  # keys of a path


@lru_cache(maxsize=1024)
def parse_key(path: str) -> KeyPath:
    """The keys that a path names, one within the other; () when one is empty, or there are over 32.

    >>> parse_key("schedule.milestones[0]"), parse_key("groups.rates[stem/**]"), parse_key("model.")
    (('schedule', 'milestones', 0), ('groups', 'rates', 'stem/**'), ())
    """
    found = [("", key) for key in path.split(".")]
    if _PATH.fullmatch(path):
        found = _STEP.findall(path)
    keys = [(inner.strip(), (inner or word).strip()) for inner, word in found]
    if len(keys) > _DEEPEST or not all(key for _, key in keys):
        return ()
    return tuple(int(key) if inner and _COUNT.fullmatch(key) else key for inner, key in keys)


def format_key(place: KeyPath) -> str:
    """A place as text for errors: `schedule.milestones[0]`."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in place]
    return printable("".join(steps).removeprefix("."))


def hyper_name(tables: Any, place: KeyPath) -> str:
    """The path of a place as `Config.hypers` writes it, in tables that have a value there.

    >>> hyper_name({"groups": {"rates": {"stem": 0.1}}}, ("groups", "rates", "stem"))
    'groups.rates[stem]'
    >>> hyper_name({"model": {"dropout": {"schedule": "linear"}}}, ("model", "dropout", "start"))
    'model.dropout.start'
    """
    text = ".".join(map(str, place[: argument_depth(place)]))
    for end in range(argument_depth(place), len(place)):
        around, step = get_value(tables, place[:end]), place[end]
        dotted = is_schedule(around) or not isinstance(around, dict | list)
        text += f".{step}" if dotted and isinstance(step, str) else f"[{step}]"
    return text


def get_value(tables: Any, place: KeyPath) -> Any:
    """What stands at a place, or None when nothing does."""
    for step in place:
        if isinstance(tables, dict):
            tables = tables.get(str(step))
        elif isinstance(tables, list) and isinstance(step, int) and step < len(tables):
            tables = tables[step]
        else:
            return None
    return tables


def set_value(tables: Any, place: KeyPath, value: Any, *, around: KeyPath = ()) -> Any:
    """The tables with the value at the place, those on the way made; what is handed in stays as it was.

    around: where the tables themselves stand, for the words of errors.
    Raises: ValueError when a value stands where a table should, or a list is too short.

    >>> set_value({"seed": 1}, ("train", "steps"), 5)
    {'seed': 1, 'train': {'steps': 5}}
    """
    if not place:
        return value
    step, rest = place[0], place[1:]
    if isinstance(tables, dict):
        inner = set_value(tables.get(str(step), {}), rest, value, around=(*around, step))
        return {**tables, str(step): inner}
    if not (isinstance(tables, list) and isinstance(step, int)):
        raise ValueError(f"{format_key(around)} is a value, not a table")
    if step >= len(tables):
        raise ValueError(f"{format_key(around)} holds {len(tables)} values, so there is no [{step}]")
    inner = set_value(tables[step], rest, value, around=(*around, step))
    return [*tables[:step], inner, *tables[step + 1 :]]


def parse_value(text: str) -> Any:
    """The value of an override: TOML, or text. Raises: ValueError where it is neither."""
    if not text.isascii() and text != text.encode(errors="replace").decode():
        raise ValueError("should be text in UTF-8, for it is kept in a file that is")
    try:
        parsed = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        return text.strip()
    return parsed["value"] if len(parsed) == 1 else text.strip()


def find_type(tables: Any, place: KeyPath) -> ValueType | None:
    """The kind of values of an argument; None for whole tables, parts of a value and what is unknown.

    tables: not yet checked, so that anything may be in them.
    """
    if place == ("seed",):
        return parse_annotation(int)
    if len(place) < 2 or len(place) != argument_depth(place):
        return None
    table = str(place[0])
    given = get_value(tables, (table, "name"))
    name = place[1] if table == "augment" else FIXED_FACTORIES.get(table, given)
    if table not in TABLES or name not in list(factories(table)):
        return None
    return get_schema(table, name).types.get(str(place[-1]))


def argument_depth(place: KeyPath) -> int:
    """How many keys lead to the argument that a place is in, or is."""
    return 3 if place[:1] == ("augment",) else 2
