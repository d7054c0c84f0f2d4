"""Tables of a sweep: rows as text, as HTML, as a data frame and in files."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.display import html_table, text_table


class Table(list[dict[str, Any]]):
    """A list of rows, dicts with the same names."""

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`. Raises: ModuleNotFoundError without pandas."""
        return check.package("sweep", "pandas", "pandas").DataFrame(list(self))

    def cells(self, rows: int, metric: str | None = None) -> list[list[str]]:
        """The header and the first rows as text, of the columns that are not empty.

        metric: the start of the metrics to show, such as "validation/loss"; None for all.
        """
        names = dict.fromkeys(name for row in self for name, value in row.items() if value is not None and value != "")
        other = lambda name: metric is not None and "/" in name and not name.startswith(metric)
        names = [name for name in names if not other(name)]
        text = lambda value: f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
        return [names, *([text(row.get(name)) for name in names] for row in self[:rows])]

    def __repr__(self) -> str:
        more = [f"and {len(self) - 50} more rows"] if len(self) > 50 else []
        return "\n".join([*text_table(self.cells(50), 0), *more]) if self else "[]"

    def _repr_html_(self) -> str:
        return html_table(self.cells(len(self)))


def table_cell(value: Any) -> Any:
    """A hyperparameter as a value of a table. value: of any type."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if np.ndim(value) == 0 and hasattr(value, "item"):
        return value.item()
    return getattr(value, "__name__", None) or str(value)


def write_table(table: Table, file: Path) -> None:
    """Write a table as .csv and, where pyarrow is installed, as .parquet. file: the path without the ending."""
    if not table:
        return
    with open(file.with_suffix(".csv"), "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    columns = {name: [row[name] for row in table] for name in table[0]}
    for name, column in columns.items():  # a column has one type
        if len({type(value) for value in column} - {type(None), int, float}) > 0:
            columns[name] = [None if value is None else str(value) for value in column]
    parquet.write_table(pyarrow.table(columns), file.with_suffix(".parquet"))
