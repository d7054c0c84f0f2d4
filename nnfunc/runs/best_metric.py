"""The metric by which the best checkpoint, trial or run is selected, such as "max accuracy"."""

import math
from typing import Any, NamedTuple

from nnfunc import check

DEFAULT_BEST = "min loss"


class BestMetric(NamedTuple):
    """A validation metric, and whether its smallest or its largest value is best.

    mode: "min" or "max".
    name: "loss" or one of the objective's metrics.

    >>> str(BestMetric.parse("max accuracy")), BestMetric.find("accuracy")
    ('max accuracy', None)
    """

    mode: str
    name: str

    def __str__(self) -> str:
        return f"{self.mode} {self.name}"

    @staticmethod
    def find(text: Any) -> "BestMetric | None":
        """The metric that `text`, such as "max accuracy", names; None if it is anything else."""
        mode, _, metric = text.partition(" ") if isinstance(text, str) else ("", "", "")
        return BestMetric(mode, metric) if mode in ("min", "max") and metric.strip() else None

    @staticmethod
    def parse(text: Any) -> "BestMetric":
        """The metric that `text`, such as "max accuracy", names. Raises: ValueError for anything else."""
        result = BestMetric.find(text)
        if result is None:
            expected = "best should be min or max and a metric, such as 'min loss' or 'max accuracy'"
            check.fail("train", expected=expected, actual=repr(text))
        return result

    @staticmethod
    def of_config(config: dict[str, Any]) -> "BestMetric":
        """The metric that train.best of `config` names; "min loss" if it names none."""
        train = config.get("train")
        text = train.get("best") if isinstance(train, dict) else None
        return BestMetric.find(text) or BestMetric.parse(DEFAULT_BEST)

    def improves(self, metrics: dict[str, float], previous: float | None) -> bool:
        """Whether the metric's value in `metrics` is finite and better than the `previous` one; None: there is none."""
        value = metrics[self.name]
        if not math.isfinite(value):
            return False
        return previous is None or (value < previous if self.mode == "min" else value > previous)
