"""Where a value stands in the tables of a config: what a path names, and values put there.

A path is keys with dots between them, such as `schedule.peak`. A number of a list has its place in
brackets, `schedule.milestones[0]`, and what belongs to a pattern has the pattern there,
`groups.rates[stem/**]`: the names that `Config.hypers` gives them.
"""

import re
import tomllib
from functools import lru_cache
from typing import Any

from nnfunc.config.build import is_scheduled
from nnfunc.config.errors import words_of
from nnfunc.config.schema import SOLE, TABLES, Kind, factories, kind_of, schema

__all__ = ["Place", "depth_of", "kind_at", "named", "place_of", "put", "value_at", "value_of", "written"]

Place = tuple[str | int, ...]
_PATH = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[[^\[\]]+\])*")
_STEP = re.compile(r"\[([^\[\]]+)\]|\.?([^.\[\]]+)")
_COUNT = re.compile(r"[0-9]{1,9}")
_DEEPEST = 32  # keys of a path


@lru_cache(maxsize=1024)
def place_of(path: str) -> Place:
    """The keys that a path names, one within the other; () when one is empty, or there are over 32.

    >>> place_of("schedule.milestones[0]"), place_of("groups.rates[stem/**]"), place_of("model.")
    (('schedule', 'milestones', 0), ('groups', 'rates', 'stem/**'), ())
    """
    found = [("", key) for key in path.split(".")]
    if _PATH.fullmatch(path):
        found = _STEP.findall(path)
    keys = [(inner.strip(), (inner or word).strip()) for inner, word in found]
    if len(keys) > _DEEPEST or not all(key for _, key in keys):
        return ()
    return tuple(int(key) if inner and _COUNT.fullmatch(key) else key for inner, key in keys)


def written(place: Place) -> str:
    """A place as text for errors: `schedule.milestones[0]`."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in place]
    return words_of("".join(steps).removeprefix("."))


def named(tables: Any, place: Place) -> str:
    """The path of a place as `Config.hypers` writes it, in tables that have a value there.

    >>> named({"groups": {"rates": {"stem": 0.1}}}, ("groups", "rates", "stem"))
    'groups.rates[stem]'
    >>> named({"model": {"dropout": {"schedule": "linear"}}}, ("model", "dropout", "start"))
    'model.dropout.start'
    """
    text = ".".join(map(str, place[: depth_of(place)]))
    for end in range(depth_of(place), len(place)):
        around, step = value_at(tables, place[:end]), place[end]
        dotted = is_scheduled(around) or not isinstance(around, dict | list)
        text += f".{step}" if dotted and isinstance(step, str) else f"[{step}]"
    return text


def value_at(tables: Any, place: Place) -> Any:
    """What stands at a place, or None when nothing does."""
    for step in place:
        if isinstance(tables, dict):
            tables = tables.get(str(step))
        elif isinstance(tables, list) and isinstance(step, int) and step < len(tables):
            tables = tables[step]
        else:
            return None
    return tables


def put(tables: Any, place: Place, value: Any, *, around: Place = ()) -> Any:
    """The tables with the value at the place, those on the way made; what is handed in stays as it was.

    around: where the tables themselves stand, for the words of errors.
    Raises: ValueError when a value stands where a table should, or a list is too short.

    >>> put({"seed": 1}, ("train", "steps"), 5)
    {'seed': 1, 'train': {'steps': 5}}
    """
    if not place:
        return value
    step, rest = place[0], place[1:]
    if isinstance(tables, dict):
        inner = put(tables.get(str(step), {}), rest, value, around=(*around, step))
        return {**tables, str(step): inner}
    if not (isinstance(tables, list) and isinstance(step, int)):
        raise ValueError(f"{written(around)} is a value, not a table")
    if step >= len(tables):
        raise ValueError(f"{written(around)} holds {len(tables)} values, so there is no [{step}]")
    inner = put(tables[step], rest, value, around=(*around, step))
    return [*tables[:step], inner, *tables[step + 1 :]]


def value_of(text: str) -> Any:
    """The value of an override: TOML, or text. Raises: ValueError where it is neither."""
    if not text.isascii() and text != text.encode(errors="replace").decode():
        raise ValueError("should be text in UTF-8, for it is kept in a file that is")
    try:
        parsed = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        return text.strip()
    return parsed["value"] if len(parsed) == 1 else text.strip()


def kind_at(tables: Any, place: Place) -> Kind | None:
    """The kind of values of an argument; None for whole tables, parts of a value and what is unknown.

    tables: not yet checked, so that anything may be in them.
    """
    if place == ("seed",):
        return kind_of(int)
    if len(place) < 2 or len(place) != depth_of(place):
        return None
    table = str(place[0])
    given = value_at(tables, (table, "name"))
    name = place[1] if table == "augment" else SOLE.get(table, given)
    if table not in TABLES or name not in list(factories(table)):
        return None
    return schema(table, name).kinds.get(str(place[-1]))


def depth_of(place: Place) -> int:
    """How many keys lead to the argument that a place is in, or is."""
    return 3 if place[:1] == ("augment",) else 2
