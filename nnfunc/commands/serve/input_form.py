"""What a run takes as input: an example row, and the fields of a form, from its preprocessing."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnfunc.data.preprocessing import Preprocessing

__all__ = ["Field", "example_rows", "form_fields", "input_type", "rows_of_form"]


class Field(NamedTuple):
    """A field of the form.

    name: in the request. label: for the reader. type: "number", "date", "text", "area", "choice" or "files". options:
    of a choice. value: at the start.
    """

    name: str
    label: str
    type: str
    options: tuple[str, ...] = ()
    value: str = ""


def input_type(preprocessing: Preprocessing) -> str:
    """What a row of a run is: "images", "table", "tokens" or "numbers"."""
    facts = preprocessing.facts
    if "image" in facts:
        return "images"
    return "table" if "columns" in facts else "tokens" if "window" in facts else "numbers"


def example_rows(preprocessing: Preprocessing) -> Any:
    """One row that the run accepts, for `load_inputs`."""
    facts, row_type = preprocessing.facts, input_type(preprocessing)
    if row_type == "table":
        return [{field.label: field.value for field in form_fields(preprocessing) if field.type != "files"}]
    if row_type == "tokens":
        return np.zeros((1, facts["window"]), np.int32)
    return np.zeros((1, *facts["shape"]), facts["dtype"])


def form_fields(preprocessing: Preprocessing) -> list[Field]:
    """The fields in which a row is written in the page."""
    facts, row_type = preprocessing.facts, input_type(preprocessing)
    if row_type == "images":
        return [Field("files", "Images", "files")]
    if row_type == "table":
        return [*_column_fields(facts), Field("files", "or a file of rows (.csv, .jsonl, .parquet)", "files")]
    size = facts["window"] if row_type == "tokens" else int(np.prod(facts["shape"]))
    shape = " x ".join(map(str, facts.get("shape", [])))
    label = f"{size} tokens" if row_type == "tokens" else f"{size} numbers ({shape})"
    return [
        Field("numbers", f"{label}, with commas between; one example per line", "area", value=", ".join(["0"] * size))
    ]


def _column_fields(facts: Mapping[str, Any]) -> list[Field]:
    features, scaling = facts.get("features"), facts.get("standardise")
    means = dict(zip(facts["columns"], scaling["mean"], strict=True)) if scaling and not features else {}
    groups = {
        name: group for group, part in (features or {}).items() if isinstance(part, Mapping) for name in part["columns"]
    }
    fields = []
    for i, name in enumerate(facts["columns"]):
        group = groups.get(name, "numbers")
        if group == "numbers":
            fields.append(Field(f"column{i}", name, "number", value=f"{means.get(name, 0):.4g}"))
        elif group == "dates":
            fields.append(Field(f"column{i}", name, "date", value="2000-01-01"))
        elif group == "texts" or features is None:
            fields.append(Field(f"column{i}", name, "text"))
        else:
            options = tuple(features[group]["categories"][features[group]["columns"].index(name)])
            fields.append(Field(f"column{i}", name, "choice", options, options[0] if options else ""))
    return fields


def rows_of_form(preprocessing: Preprocessing, values: Mapping[str, str]) -> Any:
    """The rows that were written into the form. values: of its fields. Raises: ValueError."""
    fields = [field for field in form_fields(preprocessing) if field.type != "files"]
    if input_type(preprocessing) == "table":
        return [{field.label: values.get(field.name, "") for field in fields}]
    lines = [line for line in values.get("numbers", "").splitlines() if line.strip()]
    return [_numbers(line) for line in lines]


def _numbers(line: str) -> Sequence[Any]:
    try:
        return json.loads(f"[{line.strip().strip('[]')}]")
    except ValueError:
        return line.split(",")
