"""The columns of a table as the inputs of a network, through scikit-learn's ColumnTransformer.

What the transformer fits to the training rows is extracted as JSON, from which an equal transformer is built for
predictions: its structure is fitted to two rows of zeros, and its numbers are set to those that were extracted.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from nnfunc import check
from nnfunc.data.sources.column_store import StringColumn
from nnfunc.data.sources.columns import WHERE, DescribeRow, parse_numbers
from nnfunc.data.sources.table_cells import parse_dates, parse_strings

DATE_PARTS = ("year", "month", "day", "weekday", "hour", "elapsed", "missing")
"""The numbers that a date may become: elapsed is in days since 1970, missing is 1 for a missing date."""
BLOCK = 1 << 14  # rows that are transformed at a time
DAY = 86_400  # seconds
SPECIAL = ("dates", "one_hot", "texts", "categorical")
"""The columns that are not numbers, by the argument of `nf.data.table` that names them."""
GROUPS = ("numbers", *SPECIAL)

Cells = dict[str, "np.ndarray | StringColumn"]
Features = dict[str, Any]
"""{"numbers", "dates", "one_hot", "texts", "categorical": {"columns": names, ...}, "impute", "scaling"}, as JSON."""


def parse_cells(name: str, features: Features, values: Mapping[str, Any], describe_row: DescribeRow | None) -> Cells:
    """The columns of a table by name: numbers and dates as float64 with NaN for missing ones, others as strings.

    name: of the table. features: which columns there are. values: the raw columns. describe_row: of `read_columns`.
    Raises: ValueError, with row and column, for a cell that is not what its column holds.
    """
    options: dict[str, Any] = {"allow_missing": features["impute"] is not None}
    date_options = options | {"date_format": features["dates"]["format"]}
    cells: Cells = {}
    for column in features["numbers"]["columns"]:
        cells[column] = parse_numbers(name, column, values[column], describe_row, **options)
    for column in features["dates"]["columns"]:
        cells[column] = parse_dates(name, column, values[column], describe_row, **date_options)
    for group in ("one_hot", "texts", "categorical"):
        for column in features[group]["columns"]:
            cells[column] = parse_strings(name, column, values[column], categories=group != "texts")
    return cells


def date_parts(seconds: np.ndarray, parts: Sequence[Sequence[str]]) -> np.ndarray:
    """The parts of dates as columns of float64.

    seconds: since 1970, [n, dates]; the parts of NaN are NaN. parts: the names of the parts of each date.

    >>> date_parts(np.array([[86400.0 * 31]]), [["year", "month", "day", "weekday", "elapsed"]]).tolist()
    [[1970.0, 2.0, 1.0, 6.0, 31.0]]
    """
    columns = []
    for column, names in zip(seconds.T.astype(np.float64), parts, strict=True):
        missing = np.isnan(column)
        dates = np.floor(np.where(missing, 0, column)).astype("datetime64[s]")
        months, days = dates.astype("datetime64[M]"), dates.astype("datetime64[D]")
        values = {
            "year": months.astype("datetime64[Y]").astype(int) + 1970,
            "month": months.astype(int) % 12 + 1,
            "day": (days - months).astype(int) + 1,
            "weekday": (days.astype(int) + 3) % 7,  # Monday is 0
            "hour": (dates - days).astype(int) // 3600,
            "elapsed": column / DAY,
        }
        columns += [missing if part == "missing" else np.where(missing, math.nan, values[part]) for part in names]
    return np.stack(columns, axis=1).astype(np.float64)


def _untrained(features: Features) -> Any:
    """The ColumnTransformer of these features, before it is fitted."""
    check.package(WHERE, "sklearn", "nnfunc[programs]")
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler

    def numeric(*steps: tuple[str, Any], add_indicator: bool) -> Pipeline:
        if features["impute"] is not None:
            options: dict[str, Any] = {"add_indicator": add_indicator, "keep_empty_features": True}
            steps += (("impute", SimpleImputer(strategy=features["impute"], **options)),)
        if features["scaling"] is not None:
            steps += (("scale", StandardScaler() if features["scaling"] == "standard" else RobustScaler()),)
        return Pipeline([*(steps or [("identity", "passthrough")])])

    columns = [column for group in GROUPS for column in features[group]["columns"]]
    at = {group: [columns.index(column) for column in features[group]["columns"]] for group in GROUPS}
    parts = FunctionTransformer(date_parts, kw_args={"parts": features["dates"].get("parts")})
    known: Any = features["one_hot"].get("categories", "auto")
    one_hot = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
    known = features["categorical"].get("categories")
    known = "auto" if known is None else [["", *names] for names in known]  # "" is a missing value
    ordinal = OrdinalEncoder(categories=known, handle_unknown="use_encoded_value", unknown_value=-1)
    terms = features["texts"].get("terms", [None] * len(at["texts"]))
    limit = features["texts"]["limit"]
    transformers = [
        ("numbers", numeric(add_indicator=True), at["numbers"]),
        ("dates", numeric(("parts", parts), add_indicator=False), at["dates"]),
        ("one_hot", one_hot, at["one_hot"]),
        *(
            (f"texts_{i}", TfidfVectorizer(max_features=limit, vocabulary=terms[i]), column)
            for i, column in enumerate(at["texts"])
        ),
        ("categorical", ordinal, at["categorical"]),
    ]
    return ColumnTransformer([item for item in transformers if item[2] != []], sparse_threshold=0)


def fit_features(features: Features, cells: Cells, rows: np.ndarray) -> tuple[Features, Any]:
    """(the features with the numbers that were fitted to the training rows, scikit-learn's fitted transformer).

    features: the columns, and how to transform them. cells: of `parse_cells`. rows: the indices of the training rows.
    Raises: ValueError when a column of texts has no words.
    """
    fitted = {key: dict(value) if isinstance(value, dict) else value for key, value in features.items()}
    dates = fitted["dates"]
    dates["parts"] = [_varying_parts(cells[column], rows) for column in dates["columns"]]
    transformer = _untrained(fitted)
    for name, vectorizer, _ in transformer.transformers:
        if name.startswith("texts_"):
            column = fitted["texts"]["columns"][int(name.removeprefix("texts_"))]
            analyze, strings = vectorizer.build_analyzer(), cast(StringColumn, cells[column])
            if not any(analyze(strings.distinct[code]) for code in np.unique(strings.codes[rows])):
                check.fail(WHERE, expected=f"column {column!r} should hold texts", actual="no word of two letters")
    transformer.fit(_matrix(cells, rows))
    named = transformer.named_transformers_
    for group in ("numbers", "dates"):
        steps = named[group].named_steps if group in named else {}
        if (imputer := steps.get("impute")) is not None:
            fitted[group]["fill"] = imputer.statistics_.tolist()
            fitted[group]["indicators"] = imputer.indicator_.features_.tolist() if imputer.add_indicator else []
        if (scaler := steps.get("scale")) is not None:
            fitted[group] |= {"center": getattr(scaler, _center(scaler)).tolist(), "scale": scaler.scale_.tolist()}
    if "one_hot" in named:
        fitted["one_hot"]["categories"] = [names.tolist() for names in named["one_hot"].categories_]
    if "categorical" in named:
        categories = named["categorical"].categories_
        fitted["categorical"]["categories"] = [[name for name in names.tolist() if name] for names in categories]
    vectorizers = [named[f"texts_{i}"] for i in range(len(fitted["texts"]["columns"]))]
    fitted["texts"]["terms"] = [vectorizer.get_feature_names_out().tolist() for vectorizer in vectorizers]
    fitted["texts"]["idf"] = [vectorizer.idf_.tolist() for vectorizer in vectorizers]
    return fitted, transformer


def build_transformer(features: Features) -> Any:
    """The fitted ColumnTransformer of `fit_features`, from its numbers. features: that it returned."""
    rows = _untrained(features)
    cells: Cells = {}
    for i, column in enumerate(features["numbers"]["columns"]):
        lacks = i in features["numbers"].get("indicators", ())
        cells[column] = np.array([0.0, math.nan if lacks else 0.0])
    cells |= {column: np.zeros(2) for column in features["dates"]["columns"]}
    for group, names in (("one_hot", "categories"), ("texts", "terms"), ("categorical", "categories")):
        for column, strings in zip(features[group]["columns"], features[group].get(names, ()), strict=True):
            cells[column] = StringColumn(np.zeros(2, np.int32), [strings[0] if strings else ""])
    transformer = rows.fit(_matrix(cells, np.arange(2)))
    named = transformer.named_transformers_
    for group in ("numbers", "dates"):
        steps, numbers = named[group].named_steps if group in named else {}, features[group]
        if "impute" in steps:
            steps["impute"].statistics_ = np.array(numbers["fill"])
        if "scale" in steps:
            scaler = steps["scale"]
            setattr(scaler, _center(scaler), np.array(numbers["center"]))
            scaler.scale_ = np.array(numbers["scale"])
    for i, idf in enumerate(features["texts"]["idf"]):
        named[f"texts_{i}"].idf_ = np.array(idf)
    return transformer


def category_sizes(features: Features) -> list[int]:
    """The number of indices of each categorical column: 0 is an unknown category, 1 a missing one, then the known."""
    return [len(names) + 2 for names in features["categorical"].get("categories", ())]


def encode(transformer: Any, cells: Cells, rows: np.ndarray) -> Any:
    """The inputs of the network: float32 [rows, numbers], with categories {"numbers", "categories": int32 [rows, c]}.

    Without any number, "numbers" is missing. transformer: of `build_transformer`. cells: of `parse_cells`. rows: the
    indices of the rows.
    Raises: ValueError for numbers that float32 does not have.
    """
    numbers, categories = [], []
    for start in range(0, len(rows), BLOCK):
        block = transformer.transform(_matrix(cells, rows[start : start + BLOCK]))
        split = transformer.output_indices_.get("categorical", slice(block.shape[1], None)).start
        with np.errstate(over="ignore"):
            numbers.append(block[:, :split].astype(np.float32))
        categories.append(block[:, split:].astype(np.int32) + 1)
    x, ids = np.concatenate(numbers), np.concatenate(categories)
    wrong = np.flatnonzero(~np.isfinite(x).all(1))
    if len(wrong):
        expected = "the numbers of a row should be finite as float32 after scaling"
        check.fail(WHERE, expected=expected, actual=f"row {rows[wrong[0]]}, the first of {len(wrong)}")
    if not ids.shape[1]:
        return x
    return {"numbers": x, "categories": ids} if x.shape[1] else {"categories": ids}


def _center(scaler: Any) -> str:
    return "mean_" if hasattr(scaler, "with_mean") else "center_"


def _varying_parts(seconds: Any, rows: np.ndarray) -> list[str]:
    """The parts of a date that are not the same in all of the rows; elapsed always."""
    values = date_parts(seconds[rows, None], [DATE_PARTS])
    known = ~np.isnan(values)
    low, high = values.min(0, initial=math.inf, where=known), values.max(0, initial=-math.inf, where=known)
    return [part for part, a, b in zip(DATE_PARTS, low, high, strict=True) if a < b or part == "elapsed"]


def _matrix(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """The cells of the rows, [rows, columns]: float64, or objects where there are strings."""
    has_strings = any(isinstance(values, StringColumn) for values in cells.values())
    matrix = np.empty((len(rows), len(cells)), object if has_strings else np.float64)
    for i, values in enumerate(cells.values()):
        if isinstance(values, StringColumn):
            matrix[:, i] = [values.distinct[code] for code in values.codes[rows].tolist()]
        else:
            matrix[:, i] = values[rows]
    return matrix
