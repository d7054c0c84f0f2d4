"""The predictions in raw outputs: classes with probabilities, labels, values, tags."""

from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.evaluation.readings import CLASSES


def read_outputs(
    output_type: str, output: Any, *, threshold: Any = None, quantiles: int | None = None
) -> dict[str, np.ndarray]:
    """The predictions in the raw outputs [n, ...] of a model, by name.

    Of the type "classes", and "tokens": class [n, ...] int and probability [n, ..., classes]; "tags": tags, for class,
    and probability; "binary": class [n], 0 or 1, and probability [n] of 1; "labels": labels [n, labels] bool and
    probability [n, labels]; "values": value; "quantiles": value, the middle one, and quantiles [n, quantiles],
    or [n, outputs, quantiles];
    "deviation": value and deviation; "counts": value, the rate; "": value, the output as it is.
    output_type: a value of `Objective.output_type`.
    output: [n, ...], or a pair for "deviation".
    threshold: the probability from which on an answer is yes, one number in [0, 1], or one for each label; None for
        logits above 0.
    quantiles: their number for each of several outputs, `Objective.quantiles`; None where there is one output, and
        all are of it.

    >>> predictions = read_outputs("binary", np.array([[0.0], [2.0]]), threshold=0.9)
    >>> predictions["class"].tolist(), predictions["probability"].round(4).tolist()
    ([0, 0], [0.5, 0.8808])
    """
    if output_type == "deviation" and isinstance(output, tuple | list):
        output = np.concatenate([np.reshape(part, (len(part), -1)) for part in output], axis=1)
    output = np.asarray(output)
    output = output.astype(np.promote_types(output.dtype, np.float64))
    if output_type in CLASSES:
        exponentials = np.exp(output - output.max(-1, keepdims=True))
        probability = exponentials / exponentials.sum(-1, keepdims=True)
        return {"tags" if output_type == "tags" else "class": output.argmax(-1), "probability": probability}
    if output_type in ("binary", "labels"):
        if output_type == "binary":
            output = output.reshape(len(output))
        probability = np.exp(-np.logaddexp(0, -output))
        levels = None if threshold is None else np.asarray(threshold, np.float64)
        if levels is not None and levels.shape not in ((), output.shape[1:]):
            check.shape("threshold", output.shape[1:], "One number, or one for each label.", threshold=levels)
        answer = output > 0 if levels is None else probability >= levels
        if output_type == "labels":
            return {"labels": answer, "probability": probability}
        return {"class": answer.astype(np.int64), "probability": probability}
    if output_type == "quantiles":
        if quantiles is not None:
            output = _by_output(output, quantiles)
        return {"value": output[..., output.shape[-1] // 2], "quantiles": output}
    if output_type == "deviation":
        mean, log_deviation = np.split(output, 2, axis=-1)
        return {"value": mean, "deviation": np.exp(log_deviation)}
    return {"value": np.exp(output) if output_type == "counts" else output}


def _by_output(output: np.ndarray, quantiles: int) -> np.ndarray:
    """[n, ..., outputs, quantiles] of outputs [n, ..., outputs * quantiles], those of the first output first."""
    check.size("read_outputs", quantiles=quantiles)
    output = output.reshape(len(output), -1) if output.ndim < 2 else output
    if output.shape[-1] % quantiles:
        expected = f"the outputs of the model should be {quantiles} quantiles of each target"
        check.fail("read_outputs", expected=expected, actual=f"outputs of shape {output.shape}")
    return output.reshape(*output.shape[:-1], -1, quantiles)
