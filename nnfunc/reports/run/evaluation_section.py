"""What a run's report says about held-out data."""

from typing import NamedTuple

from nnfunc.reports.charts import Chart

__all__ = ["Evaluation"]


class Evaluation(NamedTuple):
    """sections: (title, HTML). examples: {cell: HTML of its examples}. layout: of the examples. charts: of the sections."""

    sections: list[tuple[str, str]]
    examples: dict[str, list[str]]
    layout: str
    charts: list[Chart]
