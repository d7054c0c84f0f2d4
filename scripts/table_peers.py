"""What scikit-learn's models reach on the splits of a config for tables.

    python scripts/table_peers.py configs/table_mixed.toml

Gradient boosting and a linear model get the inputs that the network gets, and learn its (scaled) targets. Metrics are
in the units of the file. The negative log-likelihood takes the deviation of the errors on the validation split.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from nnfunc.config import load


def flatten(x: object, sizes: list[int], *, one_hot: bool) -> np.ndarray:
    """The numbers and categories of a split as one matrix."""
    if not isinstance(x, dict):
        return np.asarray(x)
    ids = np.asarray(x["categories"])
    columns = np.concatenate([np.eye(size)[ids[:, i]] for i, size in enumerate(sizes)], 1) if one_hot else ids
    return np.concatenate([np.asarray(x["numbers"]), columns], axis=1)


def main(file: Path) -> dict[str, dict[str, float]]:
    data = load(file).data()
    facts, restore = data.preprocessing.facts, data.preprocessing.restore_target
    sizes, splits = facts.get("categories", []), (data.arrays, data.validation, data.test)
    is_class, results = facts["task"] == "classification", {}
    for name in ("boosting", "linear"):
        x = [flatten(part[0], sizes, one_hot=name == "linear") for part in splits]
        y = [np.asarray(part[1]) if is_class else np.asarray(part[1])[:, 0] for part in splits]
        if name == "boosting":
            boosting = HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor
            categories: Any = list(range(x[0].shape[1] - len(sizes), x[0].shape[1]))
            model: Any = boosting(categorical_features=categories, random_state=0)
        else:
            model = LogisticRegression(max_iter=2000) if is_class else Ridge(alpha=1.0)
        model.fit(x[0], y[0])
        if is_class:
            p, truth = model.predict_proba(x[2]), y[2]
            results[name] = {"accuracy": np.mean(p.argmax(1) == truth), "log_loss": metrics.log_loss(truth, p)}
            if p.shape[1] == 2:
                precision, recall, levels = metrics.precision_recall_curve(y[1], model.predict_proba(x[1])[:, 1])
                f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
                answers = p[:, 1] >= levels[f1[:-1].argmax()]  # chosen on the validation split, as for the network
                results[name] |= {"f1": metrics.f1_score(truth, answers)}
                results[name] |= {"roc_auc": metrics.roc_auc_score(truth, p[:, 1])}
                results[name] |= {"average_precision": metrics.average_precision_score(truth, p[:, 1])}
        else:
            predictions = [np.reshape(model.predict(part), (-1, 1)) for part in x]
            errors = [restore(a) - restore(b[:, None]) for a, b in zip(predictions, y, strict=True)]
            deviation = errors[1].std()
            nll = np.mean(np.log(deviation) + (errors[2] / deviation) ** 2 / 2 + np.log(2 * np.pi) / 2)
            rmse = np.sqrt(np.mean(errors[2] ** 2))
            results[name] = {"mae": np.abs(errors[2]).mean(), "rmse": rmse, "nll": nll}
        print(f"{name:9}", "  ".join(f"{key} {value:.4f}" for key, value in results[name].items()))
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]))
