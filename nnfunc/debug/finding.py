"""The findings of `doctor`."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """A mistake that `doctor` reports; as text, one line.

    severity: "error" (training cannot work) or "warning" (training is likely to suffer).
    where: the layer, the parameter or the part of the data.
    check: the name of the check that failed, such as "examples leak".
    evidence: the measurement, a sentence.
    hint: what to do.

    >>> str(Finding("error", "loss", "loss ignores the labels", "It is 1.1 for any order.", "Shuffle."))
    'error: loss: loss ignores the labels: It is 1.1 for any order. Shuffle.'
    """

    severity: Literal["error", "warning"]
    where: str
    check: str
    evidence: str
    hint: str

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.check}: {self.evidence} {self.hint}"
