"""The predictions of a run as named columns: class names, probabilities, values in the units of the data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnfunc.config.restore import Run
from nnfunc.data.prediction_inputs import restore_outputs
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.evaluation.predictions import read_outputs

Columns = dict[str, Any]


def name_column(preprocessing: Preprocessing) -> str:
    """The column of the names that `load_inputs` gives: "file", "words" of sentences, or "series"."""
    return {"tagging": "words", "forecasting": "series"}.get(preprocessing.factory, "file")


def name_columns(preprocessing: Preprocessing, names: list[str] | None) -> Columns:
    """The columns that tell the examples, {} without names; of series also the time of the first value, `t+1`.

    names: of `load_inputs`.
    """
    columns: Columns = {} if names is None else {name_column(preprocessing): names}
    if names and preprocessing.factory == "forecasting":
        columns = {"series": list(map(str, names))}
        columns.setdefault(preprocessing.facts["time"], [getattr(name, "first_time", "") for name in names])
    return columns


def prediction_columns(
    run: Run, output: Any, names: list[str] | None = None, lengths: np.ndarray | None = None
) -> Columns:
    """The predictions [n] in the outputs of a model, by column.

    Of classes "class", a name or an index, and "p_NAME", the probability of each class; of several labels each label
    as 0 or 1, and "p_LABEL"; of numbers the labels' names, with "_deviation" or "_q0", "_q1", ... behind each; of
    tags "tags", a list; of tokens "token", the most likely next one.
    run: a trained run.
    output: of its model, [n, ...], as `predict_batches` gives it.
    names: of `load_inputs`.
    lengths: of `sentence_lengths`, None for all positions.
    """
    output_type, preprocessing = run.output_type, run.config.preprocessing
    output = restore_outputs(preprocessing, output, output_type, names)
    result = read_outputs(output_type, output, threshold=run.threshold, quantiles=run.quantiles)
    if output_type == "tags":
        tags = [[_name(run.names, tag) for tag in row] for row in result["tags"].tolist()]
        counts = [None] * len(tags) if lengths is None else lengths.tolist()
        return {"tags": [row[:count] for row, count in zip(tags, counts, strict=True)]}
    classes = run.names
    if output_type == "tokens":
        codec = preprocessing.codec
        tokens = result["class"].reshape(len(result["class"]), -1)[:, -1]
        probability = result["probability"].max(-1).reshape(len(tokens), -1)[:, -1]
        text = tokens.tolist() if codec is None else [codec.decode([token]) for token in tokens]
        return {"token": text, "probability": probability}
    if output_type in ("classes", "binary"):
        probability = result["probability"]
        if output_type == "binary":
            probability = np.stack([1 - probability, probability], axis=-1)
        count = probability.shape[-1]
        known = classes is not None and len(classes) == count
        header = [f"p_{name}" for name in classes] if known and classes else [f"p{i}" for i in range(count)]
        values = [_name(classes if known else None, index) for index in result["class"].tolist()]
        return {"class": values} | dict(zip(header, np.moveaxis(probability, -1, 0), strict=True))
    if output_type == "labels":
        count = result["labels"].shape[-1]
        header = classes if classes is not None and len(classes) == count else [f"label{i}" for i in range(count)]
        answers = result["labels"].T.astype(int)
        return dict(zip(header, answers, strict=True)) | {
            f"p_{name}": column for name, column in zip(header, result["probability"].T, strict=True)
        }
    label = preprocessing.facts.get("label")
    if preprocessing.factory == "forecasting":
        label = [f"t+{i + 1}" for i in range(preprocessing.facts["horizon"])]
    return _numbers(result, [label] if isinstance(label, str) else label)


def _name(names: Sequence[str] | None, index: int) -> Any:
    return index if names is None else names[index]


def _numbers(result: dict[str, np.ndarray], labels: Sequence[str] | None) -> Columns:
    """The columns of numbers. labels: of the outputs, if they are as many."""
    columns: Columns = {}
    for part, suffix in (("value", ""), ("deviation", "_deviation"), ("quantiles", "_q")):
        if part not in result:
            continue
        values = result[part].reshape(len(result[part]), -1)  # [rows, outputs], or [rows, outputs * quantiles]
        each = result[part].shape[-1] if part == "quantiles" else 1
        count = values.shape[-1] // each
        known = labels is not None and len(labels) == count
        names = labels if known and labels else [f"y{i}" for i in range(count)]
        header = [f"{name}{suffix}{i if part == 'quantiles' else ''}" for name in names for i in range(each)]
        columns |= dict(zip(header, values.T, strict=True))
    return columns
