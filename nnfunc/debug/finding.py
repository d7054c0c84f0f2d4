"""What `doctor` tells."""

from typing import Literal, NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """One mistake. severity: "error" (it cannot train right) or "warning" (it is likely to hurt).

    where: the layer, parameter or part of the data. what: the name of the check that it failed, such
    as "examples leak". why: what was measured. cure: what to do.
    """

    severity: Literal["error", "warning"]
    where: str
    check: str
    evidence: str
    hint: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.check}: {self.evidence} {self.hint}"
