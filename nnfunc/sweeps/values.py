"""The values of one setting: drawn ones, fixed ones, and those that are functions of others."""

from collections.abc import Callable, Mapping
from typing import Any

from nnfunc import check
from nnfunc.sweeps.space import Distribution, entry

__all__ = ["Space"]


class Space:
    """A dict of entries in three kinds: drawn, fixed, and functions of the other values."""

    def __init__(self, space: Mapping[str, Any]):
        if not space:
            check.fail("sweep", "the space is empty. Give at least one name, such as lr=[...].")
        self.order = list(space)
        for name in space:
            if not isinstance(name, str):
                got = check.describe(name)
                check.fail("sweep", f"names of the space should be words, got {got}.")
        found = {name: entry(name, value) for name, value in space.items()}
        self.drawn: dict[str, Distribution] = {n: d for n, d in found.items() if d is not None}
        rest = {name: value for name, value in space.items() if found[name] is None}
        self.made = {n: v for n, v in rest.items() if callable(v)}
        self.fixed = {n: v for n, v in rest.items() if not callable(v)}

    def whole(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """All values of one setting, those that are functions of others worked out."""
        values = _Values({**self.fixed, **drawn}, self.made)
        return {name: values[name] for name in self.order}


class _Values(dict[str, Any]):
    """The values of one setting; those that depend on others are worked out when asked for."""

    def __init__(self, known: dict[str, Any], made: dict[str, Callable[..., Any]]):
        super().__init__(known)
        self.made, self.busy = made, []

    def __missing__(self, name: str) -> Any:
        if name not in self.made:
            known = check.nearest(str(name), [*self, *self.made])
            who = f"the function of {self.busy[-1]!r}" if self.busy else "a function of the space"
            check.fail("sweep", f"{who} reads {name!r}, which the space does not hold{known}")
        if name in self.busy:
            ring = " -> ".join([*self.busy[self.busy.index(name) :], name])
            check.fail("sweep", f"values depend on each other in a ring: {ring}.")
        self.busy.append(name)
        try:
            self[name] = self.made[name](self)
        except TypeError as error:
            error.add_note(
                f"A function in a space is one of the other values, h -> value. To give {name!r} the "
                "function itself, put it into a list."
            )
            raise
        self.busy.pop()
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value, worked out if need be; default where there is no such name."""
        return self[name] if name in self or name in self.made else default
