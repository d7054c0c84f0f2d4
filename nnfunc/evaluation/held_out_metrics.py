"""The metrics of held-out examples: values, by class, confusion, curves, the worst examples, baselines."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.evaluation.entities import has_scheme
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.named_metrics import default_names, find_metric, row_sums
from nnfunc.evaluation.ranking import Ranking
from nnfunc.evaluation.readings import ANSWERS, CLASSES, Reading


def compute_metrics(held_out: HeldOut, names: Sequence[str] | None = None) -> dict[str, float]:
    """The metrics of the rows by name, NaN where a metric is not defined.

    held_out: outputs and targets.
    names: of metrics; None for those of the type of outputs.
    Raises: ValueError for a name that is no metric of these outputs.

    >>> held_out = HeldOut("binary", np.array([-1.0, 2.0, 0.5]), np.array([0, 1, 0]))
    >>> {name: round(value, 4) for name, value in compute_metrics(held_out, ["accuracy", "f1", "roc_auc"]).items()}
    {'accuracy': 0.6667, 'f1': 0.6667, 'roc_auc': 1.0}
    """
    reading = held_out.reading()
    weight = row_weights(held_out, reading)
    names = metric_names_of(held_out) if names is None else names
    metrics = {name: find_metric("compute_metrics", held_out.output_type, name) for name in names}
    exact = [name for name, metric in metrics.items() if metric.is_exact]
    ranked = Ranking.of(reading).means(exact, weight[None]) if exact else {}
    with np.errstate(all="ignore"):
        value = lambda name: ranked[name][0] if name in ranked else row_sums(np, name, reading, weight).value()
        return {name: float(value(name)) for name in metrics}


def metric_names_of(held_out: HeldOut) -> list[str]:
    """The names of the metrics that a report shows for these outputs."""
    names = default_names(held_out.output_type, np.shape(held_out.output)[-1])
    has_entities = held_out.output_type == "tags" and has_scheme(held_out.names)
    return (["entity_f1", "entity_precision", "entity_recall"] if has_entities else []) + names


def row_weights(held_out: HeldOut, reading: Reading) -> np.ndarray:
    """[rows], the weight of each row of the reading; 0 for rows that do not count."""
    weight = np.ones(len(held_out.target)) if held_out.weight is None else np.asarray(held_out.weight, np.float64)
    check.shape("metrics", (len(held_out.target),), weight=weight)
    return np.repeat(weight, reading.positions) * reading.counted


def class_names(held_out: HeldOut) -> list[str]:
    """The names of the classes, labels or tags, or their numbers; of binary answers "0" and "1" without names."""
    count = 2 if held_out.output_type == "binary" else np.shape(held_out.output)[-1]
    names = held_out.names
    return list(map(str, names if names is not None and len(names) == count else range(count)))


def per_class(held_out: HeldOut) -> list[dict[str, Any]]:
    """The metrics of each class, label or tag: class, precision, recall, f1, support, predicted.

    Support and predicted are weights of rows: where it is the truth, and where it is the prediction. Of classes and
    answers there is roc_auc and average_precision too, NaN where one side does not occur.
    held_out: outputs and targets; outputs that are numbers have no classes, which gives [].

    >>> per_class(HeldOut("classes", np.eye(2), np.array([0, 0]), ("cat", "dog")))[0]["recall"]
    0.5
    """
    if held_out.output_type not in CLASSES + ANSWERS:
        return []
    reading = held_out.reading()
    weight = row_weights(held_out, reading)
    counts = row_sums(np, "f1_macro", reading, weight).values
    scores = {}
    if held_out.output_type in ("classes", *ANSWERS):
        ranking = Ranking.of(_by_column(reading))
        scores = ranking.scores(("roc_auc", "average_precision"), weight[None])
    rows = []
    for index, name in enumerate(class_names(held_out)):
        hit, predicted, true = (float(counts[part][index]) for part in ("hit", "predicted", "true"))
        row: dict[str, Any] = {"class": name, "precision": hit / predicted if predicted else 0.0}
        row |= {"recall": hit / true if true else 0.0, "f1": 2 * hit / (predicted + true) if predicted + true else 0.0}
        row |= {"support": true, "predicted": predicted}
        rows.append(row | {score: float(columns[0, index]) for score, columns in scores.items()})
    return rows


def _by_column(reading: Reading) -> Reading:
    """The reading with a column for each class against the rest, or each label; of binary answers no and yes."""
    truth, probability = reading.target, reading.probability
    if reading.output_type in CLASSES:
        truth = (truth[:, None] == np.arange(probability.shape[1])).astype(float)
    elif reading.output_type == "binary":
        truth, probability = (np.concatenate([1 - part, part], axis=1) for part in (truth, probability))
    return reading._replace(output_type="labels", target=truth, probability=probability)


def confusion(held_out: HeldOut) -> np.ndarray:
    """How often each class is predicted as each: [classes, classes], truths by row; of labels [labels, 2, 2].

    held_out: outputs and targets of classes, tags or answers. Rows that do not count are left out.

    >>> confusion(HeldOut("classes", np.eye(2), np.array([0, 0]))).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    reading = held_out.reading()
    if reading.output_type not in CLASSES + ANSWERS:
        check.fail("confusion", f"outputs of the type {reading.output_type!r} have no classes.")
    weight = row_weights(held_out, reading)
    if reading.output_type in CLASSES:
        return _count_pairs(reading.target, reading.prediction, weight, reading.probability.shape[-1])
    pairs = [
        _count_pairs(truth, prediction, weight, 2)
        for truth, prediction in zip(reading.target.T, reading.prediction.T, strict=True)
    ]
    return pairs[0] if reading.output_type == "binary" else np.stack(pairs)


def _count_pairs(truth: np.ndarray, prediction: np.ndarray, weight: np.ndarray, classes: int) -> np.ndarray:
    rows = (weight > 0) & (prediction >= 0)
    index = truth[rows].astype(np.int64) * classes + prediction[rows].astype(np.int64)
    return np.bincount(index, weight[rows], classes * classes).reshape(classes, classes)


def curves(held_out: HeldOut, points: int = 200) -> dict[str, list[dict[str, Any]]]:
    """The curves of classes and answers, by name, each a list of tables with lists of numbers.

    "precision_recall": name, precision, recall, threshold; "roc": name, false_positive_rate, true_positive_rate,
    threshold: one for each class, label, or for yes, that occurs, and does not always. "calibration": probability,
    frequency and count of each bin of the predicted probability: of the predicted class, or of yes.
    held_out: outputs and targets; rows whose outputs are not finite are left out.
    points: the most of a curve, at least 2.
    """
    from sklearn import metrics

    result: dict[str, list[dict[str, Any]]] = {"precision_recall": [], "roc": [], "calibration": []}
    if held_out.output_type not in ("classes", "tags", *ANSWERS):
        return result
    reading = held_out.reading()
    weight = row_weights(held_out, reading) * np.repeat(held_out.finite(), reading.positions)
    rows = weight > 0
    columns = _by_column(reading)
    for index, name in list(enumerate(class_names(held_out)))[1 if held_out.output_type == "binary" else 0 :]:
        truth, probability = columns.target[rows, index], columns.probability[rows, index]
        if not 0 < truth.sum() < len(truth):
            continue
        precision, recall, threshold = metrics.precision_recall_curve(truth, probability, sample_weight=weight[rows])
        table = {"precision": precision, "recall": recall, "threshold": np.append(threshold, 1.0)}
        result["precision_recall"].append({"name": name, **_thin(table, points)})
        false, true, threshold = metrics.roc_curve(truth, probability, sample_weight=weight[rows])
        table = {"false_positive_rate": false, "true_positive_rate": true, "threshold": np.minimum(threshold, 1.0)}
        result["roc"].append({"name": name, **_thin(table, points)})
    sums = row_sums(np, "calibration_error", reading, weight).values
    bins = {name: part.reshape(-1, part.shape[-1]).sum(0) for name, part in sums.items()}
    filled = bins["count"] > 0
    count = bins["count"][filled]
    calibration = {"probability": bins["confidence"][filled] / count, "frequency": bins["truth"][filled] / count}
    result["calibration"].append({name: part.tolist() for name, part in {**calibration, "count": count}.items()})
    return result


def _thin(table: dict[str, np.ndarray], points: int) -> dict[str, list[float]]:
    count = len(next(iter(table.values())))
    at = np.unique(np.linspace(0, count - 1, min(points, count)).round().astype(int))
    return {name: column[at].tolist() for name, column in table.items()}


def row_losses(held_out: HeldOut) -> np.ndarray:
    """[n], how wrong each example is: minus the log-probability of the truth, or the squared error.

    The mean over the positions, labels or outputs of an example; NaN where none counts.
    held_out: outputs and targets.
    """
    reading = held_out.reading()
    names = {"deviation": "nll", "counts": "poisson_deviance"}
    name = "log_loss" if reading.output_type in CLASSES + ANSWERS else names.get(reading.output_type, "mse")
    metric = find_metric("worst", reading.output_type, name)
    assert metric.rows is not None
    with np.errstate(all="ignore"):
        rows = metric.rows(np, reading)
        loss = rows["residual"] * np.square(rows["pivot"][1]) if metric.has_pivot else rows["value"]
        loss = loss.reshape(len(loss), -1).mean(-1)
    counted = (reading.counted > 0).reshape(len(held_out.target), -1)
    loss = np.where(counted, loss.reshape(counted.shape), 0).sum(-1)
    count = counted.sum(-1)
    return np.where(count > 0, loss / np.maximum(count, 1), np.nan)


def worst(held_out: HeldOut, n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """(indices [n], losses [n]) of the examples with the largest losses, the largest first.

    held_out: outputs and targets.
    n: how many, at least 1; fewer where there are fewer examples that count.

    >>> indices, losses = worst(HeldOut("values", np.array([1.0, 5.0]), np.array([1.0, 2.0])), n=1)
    >>> indices.tolist(), losses.tolist()
    ([1], [9.0])
    """
    check.size("worst", n=n)
    losses = row_losses(held_out)
    order = np.argsort(np.where(np.isnan(losses), -np.inf, losses), kind="stable")[::-1]
    order = order[~np.isnan(losses[order])][:n]
    return order, losses[order]


def constant_output(
    output_type: str, target: np.ndarray, *, classes: int | None = None, levels: Sequence[float] = (0.5,)
) -> np.ndarray | None:
    """The output [...] for one row that is best for all targets at once; None for outputs of an unknown type.

    Of classes, the logarithms of their frequencies; of answers, the logit of the frequency of yes; of numbers the mean,
    with its deviation, or the logarithm of the rate; of quantiles those of the targets.
    output_type: of the outputs.
    target: [n, ...] for training.
    classes: their number, of types with classes.
    levels: of quantiles.
    """
    target = np.asarray(target)
    if output_type in CLASSES:
        if np.issubdtype(target.dtype, np.integer):
            counts = np.bincount(target[target >= 0], minlength=classes or 0) + 1.0
        else:  # probabilities of the classes
            counts = target.reshape(-1, target.shape[-1]).sum(0, dtype=np.float64) + 1.0
        return np.log(counts / counts.sum()).astype(np.float32)
    values = target.astype(np.float64)
    if output_type in ANSWERS:
        values = values.reshape(len(values), -1) if output_type == "labels" else values.reshape(-1)
        frequency = (values.sum(0) + 1) / (len(values) + 2)
        return np.log(frequency / (1 - frequency)).astype(np.float32)
    if output_type == "deviation":
        values = values.reshape(len(values), -1)
        deviation = np.maximum(values.std(0), 1e-12)
        return np.concatenate([values.mean(0), np.log(deviation)]).astype(np.float32)
    if output_type == "counts":
        return np.log(np.maximum(values.mean(0), 1e-12)).astype(np.float32)
    if output_type == "quantiles":
        cuts = np.quantile(values, list(levels), axis=0)  # [levels, ...]
        single = values.ndim == 1 and len(levels) == 1
        return (cuts[0] if single else np.moveaxis(cuts, 0, -1).reshape(-1)).astype(np.float32)
    return values.mean(axis=0).astype(np.float32) if output_type == "values" else None


def baseline(
    train_target: np.ndarray,
    held_out: HeldOut,
    names: Sequence[str] | None = None,
    *,
    levels: Sequence[float] = (0.1, 0.5, 0.9),
) -> dict[str, float]:
    """The metrics of always giving the answer that is best for the training targets; {} where there is none.

    That is the most frequent class with the frequencies as probabilities, or the mean.
    train_target: [n, ...], of the type of `held_out.target`.
    held_out: the outputs to compare with, whose targets count.
    names: of metrics; None for those of the type.
    levels: of quantiles.

    >>> held_out = HeldOut("values", np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    >>> baseline(np.array([1.0, 1.0]), held_out, ["mae"])
    {'mae': 1.0}
    """
    shape = np.shape(held_out.output)
    constant = constant_output(held_out.output_type, train_target, classes=shape[-1], levels=levels)
    if constant is None or (held_out.output_type in CLASSES and len(constant) != shape[-1]):
        return {}
    if constant.size not in (1, shape[-1]):  # quantiles of other levels
        return {}
    constant = np.broadcast_to(constant, shape)
    return compute_metrics(held_out._replace(output=constant, threshold=None), names)
