"""The findings of `doctor`."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["Finding", "join_names"]


class Finding(NamedTuple):
    """A mistake that `doctor` reports; as text, one line.

    severity: "error" (training cannot work) or "warning" (training is likely to suffer). where: the
    layer, the parameter or the part of the data. check: the name of the check that failed, such as
    "examples leak". evidence: the measurement, a sentence. hint: what to do.

    >>> str(Finding("error", "loss", "loss ignores the labels", "It is 1.1 for any order.", "Shuffle."))
    'error: loss: loss ignores the labels: It is 1.1 for any order. Shuffle.'
    """

    severity: Literal["error", "warning"]
    where: str
    check: str
    evidence: str
    hint: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.check}: {self.evidence} {self.hint}"


def join_names(names: Sequence[str], limit: int = 3) -> str:
    """The first `limit` names in one phrase, and how many more there are.

    >>> join_names(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
