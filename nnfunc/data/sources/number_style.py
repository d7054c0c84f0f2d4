"""How a table writes numbers: its decimal mark, and what stands between thousands."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.data.download import fail_damaged
from nnfunc.data.sources.column_store import StringColumn
from nnfunc.data.sources.csv_reader import NUMBER

Decimal = Literal[".", ","]
Thousands = Literal["", ".", ",", " ", "'"]


class NumberStyle(NamedTuple):
    """The decimal mark of numbers, and the mark between groups of three digits, "" for none."""

    decimal: str = "."
    thousands: str = ""

    @staticmethod
    def of(facts: Mapping[str, Any]) -> "NumberStyle":
        """The style that `Preprocessing.facts` record, by default decimal points alone."""
        return NumberStyle(facts.get("decimal", "."), facts.get("thousands", ""))

    def check(self, where: str) -> None:
        """Refuse marks that are no marks, or the same. where: begins the error."""
        check.choice(where, (".", ","), decimal=self.decimal)
        check.choice(where, ("", ".", ",", " ", "'"), thousands=self.thousands)
        if self.decimal == self.thousands:
            check.fail(where, expected="decimal and thousands should be different", actual=f"{self.decimal!r} for both")

    def facts(self) -> dict[str, str]:
        """What differs from decimal points alone, for `Preprocessing.facts`."""
        return {name: mark for name, mark in self._asdict().items() if mark != NumberStyle._field_defaults[name]}

    def plain(self, word: str) -> str | None:
        """The number with a decimal point and nothing between thousands; None for what is no number of the style.

        >>> style = NumberStyle(",", ".")
        >>> style.plain("1.234,5"), style.plain("-0,25"), style.plain("12.5")
        ('1234.5', '-0.25', None)
        """
        if not _pattern(self).fullmatch(word):
            return None
        return (word.replace(self.thousands, "") if self.thousands else word).replace(self.decimal, ".")

    def convert(
        self, where: str, name: str, columns: Mapping[str, Any], numeric: Collection[str], describe_row: Any = None
    ) -> dict[str, Any]:
        """The columns by name, with the texts in those that are numeric as numbers are usually written.

        where: begins an error.
        name: of the table.
        numeric: names of columns.
        describe_row: row -> its position.
        Raises: ValueError for a number that is written in another way, such as 12.5 with decimal commas.
        """
        if not self.facts():
            return dict(columns)
        return {
            column: self._column(where, name, column, values, describe_row) if column in numeric else values
            for column, values in columns.items()
        }

    def _column(
        self, where: str, name: str, column: str, values: Any, describe_row: Callable[[int], str] | None
    ) -> Any:
        texts = values.distinct if isinstance(values, StringColumn) else list(values)
        if not any(isinstance(value, str) for value in texts):
            return values
        plain = [self.plain(value.strip()) if isinstance(value, str) else value for value in texts]
        for i, (value, number) in enumerate(zip(texts, plain, strict=True)):
            if number is None and isinstance(value, str) and NUMBER.fullmatch(value.strip()):
                row = int((values.codes == i).argmax()) if isinstance(values, StringColumn) else i
                marks = f"decimal = {self.decimal!r} and thousands = {self.thousands!r}"
                position = (describe_row or "row {}".format)(row)
                problem = f"{position} of column {column!r} should be a number with {marks}, got {value[:60]!r}"
                fail_damaged(where, name, problem, "Write all numbers of the table in one way, or correct the marks.")
        read = [value if number is None else number for value, number in zip(texts, plain, strict=True)]
        if isinstance(values, StringColumn):
            return StringColumn(values.codes, read)
        result = np.empty(len(read), object)
        result[:] = read
        return result


@lru_cache
def _pattern(style: NumberStyle) -> re.Pattern[str]:
    mark, decimal = re.escape(style.thousands), re.escape(style.decimal)
    whole = rf"(?:[0-9]+|[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+)" if style.thousands else "[0-9]+"
    return re.compile(rf"[+-]?(?:{whole}(?:{decimal}[0-9]*)?|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?")


def guess_styles(columns: Iterable[Collection[str]]) -> list[NumberStyle]:
    """The styles in which all of the columns are numbers: [] where there is none, several where they are ambiguous.

    Decimal points alone go before any other style, and a mark that never occurs is none of the style.
    columns: the words of each, without missing ones. One that is no numbers in any style is left out.

    >>> guess_styles([["1,5", "12,75"], ["1,234"]]), guess_styles([["1.234,5"]])
    ([NumberStyle(decimal=',', thousands='')], [NumberStyle(decimal=',', thousands='.')])
    >>> len(guess_styles([["1,234", "5,678"]])), guess_styles([["12.5"], ["1,234"]])
    (2, [NumberStyle(decimal='.', thousands=',')])
    """
    styles = [NumberStyle(decimal, mark) for decimal in ".," for mark in ("", ",", ".", "'", " ") if decimal != mark]
    possible, marks = set(styles), set()
    for column in columns:
        fitting = {style for style in styles if all(style.plain(word) is not None for word in column)}
        if fitting:
            possible &= fitting
            marks |= {mark for word in column for mark in ",.' " if mark in word}
    if NumberStyle() in possible:
        return [NumberStyle()]
    return [s for s in styles if s in possible and marks >= {*s.thousands} and (s.decimal == "." or "," in marks)]
