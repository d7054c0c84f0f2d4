"""Write the tables of configs/multiclass_names.toml and configs/multilabel.toml.

    python scripts/data/labels.py [FOLDER]

They are the same on every machine. FOLDER is by default data/, beside scripts/, where the configs look for them.
iris.csv is the data of Fisher 1936 that scikit-learn ships. articles.csv is drawn at random by scikit-learn: the counts
of 50 words in 4000 articles, and which of 8 topics each has.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np

TOPICS = ("art", "health", "law", "music", "politics", "science", "sports", "travel")


def write(file: Path, columns: dict[str, Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    print(f"{file}: {len(next(iter(columns.values())))} rows")


def iris(folder: Path) -> None:
    """150 flowers of three species, with the lengths and widths of their sepals and petals."""
    from sklearn.datasets import load_iris

    data: Any = load_iris()
    names = [name.removesuffix(" (cm)").replace(" ", "_") for name in data.feature_names]
    columns = dict(zip(names, data.data.T, strict=True))
    write(folder / "iris.csv", columns | {"species": data.target_names[data.target]})


def articles(folder: Path, rows: int = 4000, words: int = 50) -> None:
    """Articles of no topic, of one or of several: each word of an article comes from one of its topics."""
    from sklearn.datasets import make_multilabel_classification

    sizes = {"n_samples": rows, "n_features": words, "n_classes": len(TOPICS), "n_labels": 2, "length": 40}
    draw: Any = make_multilabel_classification
    counts, labels = draw(**sizes, random_state=np.random.RandomState(0))
    columns = {f"word_{i}": column.astype(int) for i, column in enumerate(counts.T)}
    write(folder / "articles.csv", columns | dict(zip(TOPICS, labels.T, strict=True)))
    rates = ", ".join(f"{topic} {rate:.0%}" for topic, rate in zip(TOPICS, labels.mean(0), strict=True))
    print(f"  {labels.sum(1).mean():.2f} topics each: {rates}")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    iris(folder)
    articles(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "data")
