"""The searches that a config or the command line may name, checked by their arguments signatures."""

import inspect
import tomllib
from collections.abc import Mapping
from typing import Any

from nnfunc import check, sweeps
from nnfunc.config.config_errors import nearest_hint

__all__ = ["SEARCHES", "check_search", "parse_search", "parse_search_text"]

SEARCHES = ("everything", "halving", "hyperband", "patience", "population", "optuna")


def parse_search(values: str | Mapping[str, Any] | None) -> tuple[str, sweeps.Search]:
    """The name and the search of a table such as { name = "halving", eta = 4 }, or of its name alone.

    Raises: ValueError and TypeError with the nearest name or argument.

    >>> parse_search({"name": "halving", "eta": 4})[0]
    'halving'
    """
    table = {"name": values or "everything"} if values is None or isinstance(values, str) else values
    arguments = dict(table)
    name = arguments.pop("name", None)
    if name not in SEARCHES:
        hint = nearest_hint(name, SEARCHES)
        problem = f"name should be one of {', '.join(SEARCHES)}, got {name!r}{'; ' + hint if hint else '.'}"
        check.fail("search", problem)
    if name == "everything":
        if arguments:
            check.fail("search", f"everything takes no arguments, got {', '.join(arguments)}.")
        return name, sweeps.everything
    make = getattr(sweeps, name)
    parameters = inspect.signature(make).parameters
    for argument in arguments:
        if argument not in parameters:
            near = check.nearest(argument, parameters)
            check.fail("search", f"{name} has no argument {argument!r}{near}")
    return name, make(**arguments)


def check_search(name: str, settings: int, trials: int | None, seeds: int) -> None:
    """Raises: ValueError where a search is not for a sweep of so many trials and seeds.

    settings: how many paths are drawn, seeds aside. What the searches refuse themselves comes later.
    """
    if name in ("population", "optuna") and not settings:
        check.fail(
            "search",
            f"{name} needs something to draw, such as schedule.peak=log(1e-4,1e-1); seeds alone are no settings.",
        )
    if name == "population" and seeds > 1:
        problem = "in population trials learn from each other"
        check.fail("search", f"{problem}, so there should be one seed, got {seeds}.")
    if name == "optuna" and trials is None:
        check.fail("search", "optuna needs to know how many runs there are in all: --trials 64.")


def parse_search_text(text: str | None) -> Any:
    """What `--search` says: a name, or a table in TOML.

    >>> parse_search_text('{name="halving", eta=4}')
    {'name': 'halving', 'eta': 4}
    """
    if text is None or not text.strip().startswith("{"):
        return text
    try:
        return tomllib.loads(f"search = {text}")["search"]
    except tomllib.TOMLDecodeError as error:
        check.fail("search", f"should be a name or a table in TOML, got {text!r}: {error}.")
