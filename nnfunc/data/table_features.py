"""The columns of a table as the inputs of a network, through scikit-learn's ColumnTransformer.

What the transformer fits to the training rows is extracted as JSON, from which an equal transformer is built for
predictions: its structure is fitted to two rows of zeros, and its numbers are set to those that were extracted.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from nnfunc import check, device_memory
from nnfunc.data.sources.column_store import StringColumn
from nnfunc.data.sources.columns import WHERE, DescribeRow, parse_numbers
from nnfunc.data.sources.table_cells import parse_dates, parse_strings

DATE_PARTS = ("year", "month", "day", "weekday", "hour", "elapsed", "missing")
"""The numbers that a date may become: elapsed is in days since 1970, missing is 1 for a missing date."""
BLOCK = 1 << 14  # rows that are transformed at a time
DAY = 86_400  # seconds
SPECIAL = ("dates", "one_hot", "texts", "categorical")
"""The columns that are not numbers, by the argument of `nf.data.table` that names them."""
TRANSFORMED = ("numbers", "dates", "one_hot", "texts")
"""Those of which scikit-learn makes numbers; the categories only become indices."""

Cells = dict[str, "np.ndarray | StringColumn"]
Features = dict[str, Any]
"""{"numbers", "dates", "one_hot", "texts", "categorical": {"columns": names, ...}, "impute", "scaling"}, as JSON."""


def parse_cells(
    name: str, features: Features, values: Mapping[str, Any], describe_row: DescribeRow | None, where: str = WHERE
) -> Cells:
    """The columns of a table by name: numbers and dates as float64 with NaN for missing ones, others as strings.

    name: of the table.
    features: which columns there are.
    values: the raw columns.
    describe_row: of `read_columns`.
    where: begins the message of an error.
    Raises: ValueError, with row and column, for a cell that is not what its column holds.
    """
    options: dict[str, Any] = {"allow_missing": features["impute"] is not None, "where": where}
    date_options = options | {"date_format": features["dates"]["format"]}
    cells: Cells = {}
    for column in features["numbers"]["columns"]:
        cells[column] = parse_numbers(name, column, values[column], describe_row, **options)
    for column in features["dates"]["columns"]:
        cells[column] = parse_dates(name, column, values[column], describe_row, **date_options)
    for group in ("one_hot", "texts", "categorical"):
        for column in features[group]["columns"]:
            cells[column] = parse_strings(name, column, values[column], categories=group != "texts", where=where)
    return cells


def date_parts(seconds: np.ndarray, parts: Sequence[Sequence[str]]) -> np.ndarray:
    """The parts of dates as columns of float64.

    seconds: since 1970, [n, dates]; the parts of NaN are NaN.
    parts: the names of the parts of each date.

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


def untrained_transformer(features: Features) -> Any:
    """The ColumnTransformer of these features, before it is fitted."""
    check.package(WHERE, "sklearn", "nnfunc[programs]")
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, RobustScaler, StandardScaler

    def numeric(*steps: tuple[str, Any], add_indicator: bool) -> Pipeline:
        if features["impute"] is not None:
            options: dict[str, Any] = {"add_indicator": add_indicator, "keep_empty_features": True}
            steps += (("impute", SimpleImputer(strategy=features["impute"], **options)),)
        if features["scaling"] is not None:
            steps += (("scale", StandardScaler() if features["scaling"] == "standard" else RobustScaler()),)
        return Pipeline([*(steps or [("identity", "passthrough")])])

    columns = [column for group in TRANSFORMED for column in features[group]["columns"]]
    at = {group: [columns.index(column) for column in features[group]["columns"]] for group in TRANSFORMED}
    parts = FunctionTransformer(date_parts, kw_args={"parts": features["dates"].get("parts")})
    known: Any = features["one_hot"].get("categories", "auto")
    one_hot = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
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
    ]
    return ColumnTransformer([item for item in transformers if item[2] != []], sparse_threshold=0)


def fit_features(features: Features, cells: Cells, rows: np.ndarray) -> Features:
    """The features with the numbers that scikit-learn's transformers fit to the training rows.

    They are fitted column by column, to save memory.
    features: the columns, and how to transform them.
    cells: of `parse_cells`.
    rows: the indices of the training rows.
    Raises: ValueError when a column of texts has no words.
    """
    fitted = {key: dict(value) if isinstance(value, dict) else value for key, value in features.items()}
    for group in TRANSFORMED:
        names = features[group]["columns"]
        facts = [_fit_column(features, group, column, cells[column], rows) for column in names]
        always = {"dates": ["parts"], "texts": ["terms", "idf"]}.get(group, [])
        for key in facts[0] if facts else always:
            lists = [fact[key] for fact in facts]
            if group == "numbers":  # an imputer appends its indicators to the columns
                lists = [values[:1] for values in lists] + [values[1:] for values in lists]
            fitted[group][key] = [value for values in lists for value in values]
        if "indicators" in fitted[group]:  # of which columns there are some
            fitted[group]["indicators"] = [i for i, fact in enumerate(facts) if fact["indicators"]]
    if features["categorical"]["columns"]:
        columns = (cast(StringColumn, cells[column]) for column in features["categorical"]["columns"])
        distinct = ({strings.distinct[code] for code in np.unique(strings.codes[rows])} for strings in columns)
        fitted["categorical"]["categories"] = [sorted(names - {""}) for names in distinct]
    return fitted


def _fit_column(
    features: Features, group: str, column: str, values: np.ndarray | StringColumn, rows: np.ndarray
) -> dict[str, list[Any]]:
    """What is fitted to a column: lists by the names that they have in the features of its group."""
    alone: Features = {key: {**features[key], "columns": []} for key in TRANSFORMED}
    alone |= {key: features[key] for key in ("impute", "scaling")}
    alone[group]["columns"] = [column]
    result: dict[str, list[Any]] = {}
    if group == "dates":
        result["parts"] = alone["dates"]["parts"] = [_varying_parts(values, rows)]
    elif group == "one_hot":  # a row of each category is enough
        rows = rows[np.unique(cast(StringColumn, values).codes[rows], return_index=True)[1]]
    transformer = untrained_transformer(alone)
    ((_, step, _),) = transformer.transformers
    if group == "texts":
        analyze, strings = step.build_analyzer(), cast(StringColumn, values)
        if not any(analyze(strings.distinct[code]) for code in np.unique(strings.codes[rows])):
            check.fail(WHERE, expected=f"column {column!r} should hold texts", actual="no word of two letters")
    transformer.fit(cell_matrix({column: values}, rows))
    ((_, step, _), *_) = transformer.transformers_
    steps = getattr(step, "named_steps", {})
    if (imputer := steps.get("impute")) is not None:
        result["fill"] = imputer.statistics_.tolist()
        result["indicators"] = imputer.indicator_.features_.tolist() if imputer.add_indicator else []
    if (scaler := steps.get("scale")) is not None:
        result |= {"center": getattr(scaler, _center(scaler)).tolist(), "scale": scaler.scale_.tolist()}
    if group == "one_hot":
        result["categories"] = [step.categories_[0].tolist()]
    if group == "texts":
        result |= {"terms": [step.get_feature_names_out().tolist()], "idf": [step.idf_.tolist()]}
    return result


def build_transformer(features: Features) -> Any:
    """The fitted ColumnTransformer of `fit_features`, from its numbers. features: that it returned."""
    rows = untrained_transformer(features)
    cells: Cells = {}
    for i, column in enumerate(features["numbers"]["columns"]):
        lacks = i in features["numbers"].get("indicators", ())
        cells[column] = np.array([0.0, math.nan if lacks else 0.0])
    cells |= {column: np.zeros(2) for column in features["dates"]["columns"]}
    for group, names in (("one_hot", "categories"), ("texts", "terms")):
        for column, strings in zip(features[group]["columns"], features[group].get(names, ()), strict=True):
            cells[column] = StringColumn(np.zeros(2, np.int32), [strings[0] if strings else ""])
    transformer = rows.fit(cell_matrix(cells, np.arange(2)))
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


def encode(transformer: Any, features: Features, cells: Cells, rows: np.ndarray) -> Any:
    """The inputs of the network: float32 [rows, numbers], with categories {"numbers", "categories": int32 [rows, c]}.

    Without any number, "numbers" is missing.
    transformer: of `build_transformer`.
    features: of `fit_features`.
    cells: of `parse_cells`.
    rows: the indices of the rows.
    Raises: ValueError for numbers that float32 does not have.
    """
    inputs = {column: cells[column] for group in TRANSFORMED for column in features[group]["columns"]}
    most = max(map(len, features["one_hot"].get("categories", ())), default=0)
    problem = f"one_hot: a column of {most} categories becomes {most} numbers for each of {len(rows)} rows"
    device_memory.check_fits(WHERE, 4.0 * most * len(rows), problem, "Name it in categorical.")
    x = np.empty((len(rows), 0), np.float32)
    for start in range(0, len(rows) if inputs else 0, BLOCK):
        block = transformer.transform(cell_matrix(inputs, rows[start : start + BLOCK]))
        if not start:
            x = np.empty((len(rows), block.shape[1]), np.float32)
        with np.errstate(over="ignore"):
            x[start : start + BLOCK] = block
    categories = features["categorical"]
    ids = np.empty((len(rows), len(categories["columns"])), np.int32)
    for i, column in enumerate(categories["columns"]):
        index = {"": 1} | {name: 2 + at for at, name in enumerate(categories["categories"][i])}
        strings = cast(StringColumn, cells[column])
        id_of_code = np.array([index.get(word, 0) for word in strings.distinct], np.int32)
        for start in range(0, len(rows), BLOCK):
            ids[start : start + BLOCK, i] = id_of_code[strings.codes[rows[start : start + BLOCK]]]
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


def cell_matrix(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """The cells of the rows, [rows, columns]: float64, or objects where there are strings."""
    has_strings = any(isinstance(values, StringColumn) for values in cells.values())
    matrix = np.empty((len(rows), len(cells)), object if has_strings else np.float64)
    for i, values in enumerate(cells.values()):
        if isinstance(values, StringColumn):
            matrix[:, i] = [values.distinct[code] for code in values.codes[rows].tolist()]
        else:
            matrix[:, i] = values[rows]
    return matrix
