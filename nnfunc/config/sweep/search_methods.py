"""The searches that a config or the command line may name; their signatures check their arguments."""

import inspect
import tomllib
from collections.abc import Mapping
from typing import Any

from nnfunc import check, sweeps

SEARCHES = ("everything", "halving", "hyperband", "patience", "population", "optuna")


def parse_search(values: str | Mapping[str, Any] | None) -> tuple[str, sweeps.Search]:
    """The name and the search of a table such as { name = "halving", eta = 4 }, or of a name.

    values: the table or the name; None for the search "everything".
    Raises: ValueError and TypeError with the nearest name or argument.

    >>> parse_search({"name": "halving", "eta": 4})[0]
    'halving'
    """
    table = {"name": values or "everything"} if values is None or isinstance(values, str) else values
    arguments = dict(table)
    name = arguments.pop("name", None)
    check.choice("search", SEARCHES, name=name)
    make = getattr(sweeps, name)
    parameters = {} if name == "everything" else inspect.signature(make).parameters
    for argument in arguments:
        if argument not in parameters:
            check.fail("search", f"{name} has no argument {argument!r}{check.nearest(argument, parameters)}")
    return name, make if name == "everything" else make(**arguments)


def check_search(name: str, settings: int, trials: int | None, seeds: int) -> None:
    """Raise a ValueError if a search cannot run a sweep. What a search checks itself is not checked here.

    name: of the search.
    settings: the number of paths in the space, without seeds.
    trials: the number of runs, None if it is not set.
    seeds: the number of seeds.
    """
    if name in ("population", "optuna") and not settings:
        expected = f"a sweep with search {name} should have a distribution, such as schedule.peak=log(1e-4,1e-1)"
        check.fail("search", expected=expected, actual="seeds alone" if seeds > 1 else "none")
    if name == "population" and seeds > 1:
        expected = "a sweep with search population should have one seed, because trials copy from each other"
        check.fail("search", expected=expected, actual=seeds)
    if name == "optuna" and trials is None:
        expected, hint = "trials should be the number of runs, for search optuna", "Give --trials 64."
        check.fail("search", expected=expected, actual=None, hint=hint)


def parse_search_text(text: str | None) -> Any:
    """The value of `--search`, a name or a table.

    text: the name, or the table in TOML; None without the flag.

    >>> parse_search_text('{name="halving", eta=4}')
    {'name': 'halving', 'eta': 4}
    """
    if text is None or not text.strip().startswith("{"):
        return text
    try:
        return tomllib.loads(f"search = {text}")["search"]
    except tomllib.TOMLDecodeError as error:
        expected, hint = "should be a name or a table in TOML", f"The parser says: {error}."
        check.fail("search", expected=expected, actual=repr(text), hint=hint)
