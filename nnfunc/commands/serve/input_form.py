"""What a run takes as input: an example row, and the fields of a form, from its preprocessing."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.data.prediction_inputs import load_inputs
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.number_style import NumberStyle


class Field(NamedTuple):
    """A field of the form.

    name: in the request.
    label: for the reader.
    type: "number", "date", "text", "area", "choice" or "files".
    options: of a choice.
    value: at the start.
    """

    name: str
    label: str
    type: str
    options: tuple[str, ...] = ()
    value: str = ""


def input_type(preprocessing: Preprocessing) -> str:
    """What a row of a run is: images, table, texts, sentences, series, tokens or numbers."""
    facts = preprocessing.facts
    if "image" in facts:
        return "images"
    named = {"table": "table", "text_classification": "texts", "tagging": "sentences", "forecasting": "series"}
    return named.get(preprocessing.factory, "tokens" if "window" in facts else "numbers")


def example_input(preprocessing: Preprocessing) -> Any:
    """One row in the form that the model reads, to compile its program with."""
    facts = preprocessing.facts
    if "features" in facts:
        rows = rows_of_form(preprocessing, {field.name: field.value for field in form_fields(preprocessing)})
        return load_inputs(preprocessing, rows)[0]
    if "window" in facts:
        return np.zeros((1, facts["window"] - 1), np.int32)
    return np.zeros((1, *facts["shape"]), facts["dtype"])


def form_fields(preprocessing: Preprocessing) -> list[Field]:
    """The fields in which a row is written in the page."""
    facts, row_type = preprocessing.facts, input_type(preprocessing)
    if row_type == "images":
        return [Field("files", "Images", "files")]
    if row_type == "table":
        return [*_column_fields(facts), Field("files", "or a file of rows (.csv, .jsonl, .parquet)", "files")]
    if row_type == "series":
        label = f"A table with at least {facts['context']} times of each series (.csv, .jsonl, .parquet)"
        return [Field("files", label, "files")]
    if row_type == "texts":
        return [Field("text", "Text", "area"), Field("files", "or files (.txt, .csv, .jsonl)", "files")]
    if row_type == "sentences":
        return [Field("text", "Sentences, one on each line, with blanks between words", "area")]
    size = facts["window"] - 1 if row_type == "tokens" else int(np.prod(facts["shape"]))
    shape = " x ".join(map(str, facts.get("shape", [])))
    label = f"{size} tokens" if row_type == "tokens" else f"{size} numbers ({shape})"
    label += ", with commas between; one example per line"
    return [Field("text", label, "area", value=", ".join(["0"] * size))]


def _column_fields(facts: Mapping[str, Any]) -> list[Field]:
    features, scaling = facts.get("features"), facts.get("standardise")
    means = dict(zip(facts["columns"], scaling["mean"], strict=True)) if scaling and not features else {}
    groups = {
        name: group for group, part in (features or {}).items() if isinstance(part, Mapping) for name in part["columns"]
    }
    fields, mark = [], NumberStyle.of(facts).decimal
    for i, name in enumerate(facts["columns"]):
        group = groups.get(name, "numbers")
        if group == "numbers":
            fields.append(Field(f"column{i}", name, "number", value=f"{means.get(name, 0):.4g}".replace(".", mark)))
        elif group == "dates":
            fields.append(Field(f"column{i}", name, "date", value="2000-01-01"))
        elif group == "texts" or features is None:
            fields.append(Field(f"column{i}", name, "text"))
        else:
            options = tuple(features[group]["categories"][features[group]["columns"].index(name)])
            fields.append(Field(f"column{i}", name, "choice", options, options[0] if options else ""))
    return fields


def rows_of_form(preprocessing: Preprocessing, values: Mapping[str, str]) -> Any:
    """The rows that were written into the form, as JSON has them. values: of its fields."""
    facts, row_type, text = preprocessing.facts, input_type(preprocessing), values.get("text", "")
    if row_type == "table":
        fields = [field for field in form_fields(preprocessing) if field.type != "files"]
        date_format = facts["features"]["dates"]["format"] if facts.get("features") else None
        return [{field.label: _cell(field, values.get(field.name, ""), date_format) for field in fields}]
    if row_type == "texts":
        return [text] if text.strip() else []
    lines = [line for line in text.splitlines() if line.strip()]
    return lines if row_type == "sentences" else [_numbers(line) for line in lines]


def _cell(field: Field, value: str, date_format: str | None) -> str:
    """The value of a field as a cell of the training file: browsers write dates as ISO 8601."""
    if field.type != "date" or not value or date_format is None:
        return value
    with suppress(ValueError):
        return date.fromisoformat(value).strftime(date_format)
    return value


def load_rows(preprocessing: Preprocessing, rows: Sequence[Any]) -> tuple[Any, list[str] | None]:
    """`load_inputs` of rows from outside, whose texts never name a file of this machine.

    Raises: ValueError for rows of another type.
    """
    row_type = input_type(preprocessing)
    forms = {
        "table": ("a table of columns, or a list of numbers", dict | list),
        "series": ("a table of columns", dict),
        "texts": ("a text, or a table with it", str | dict),
        "sentences": ("a text, or a list of words", str | list),
    }
    text, allowed = forms.get(row_type, ("a list of numbers", list))
    wrong = next((i for i, row in enumerate(rows) if not isinstance(row, allowed)), None)
    if wrong is not None:
        check.fail("predict", expected=f"row {wrong} should be {text}", actual=check.describe(rows[wrong]))
    if row_type == "texts":
        rows = [row if isinstance(row, dict) else {preprocessing.facts["text"]: row} for row in rows]
    if row_type == "sentences":
        rows = [row.split() if isinstance(row, str) else row for row in rows]
    return load_inputs(preprocessing, rows)


def _numbers(line: str) -> Sequence[Any]:
    try:
        return json.loads(f"[{line.strip().strip('[]')}]")
    except ValueError:
        return line.split(",")
