"""Write the tables of configs/binary_rare.toml, regression_scaled.toml, regression_gaussian.toml and table_mixed.toml.

    python scripts/data/tables.py [FOLDER]

They are the same on every machine. FOLDER is by default data/, beside scripts/, where the configs look for them.
diabetes.csv is the data of Efron et al. 2004 that scikit-learn ships; the others are drawn at random, so that the
best possible result is known. It is printed.
"""

import csv
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np


def write(file: Path, columns: dict[str, Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    print(f"{file}: {len(next(iter(columns.values())))} rows")


def payments(folder: Path, rows: int = 20_000) -> None:
    """Payments, 3 % of which are fraud: numbers and categories, with an interaction of two of them."""
    draw = np.random.RandomState(0)
    amount = np.exp(draw.normal(3.5, 1.2, rows))
    hour = draw.randint(0, 24, rows)
    age = draw.exponential(400, rows)  # of the account, in days
    distance = np.exp(draw.normal(2, 1.5, rows))  # from the last payment, in km
    device = draw.choice(["phone", "laptop", "tablet", "unknown"], rows, p=[0.5, 0.35, 0.1, 0.05])
    shop = draw.randint(0, 60, rows)
    risk = np.random.RandomState(1).normal(0, 0.9, 60)[shop]
    is_night = (hour < 5) | (hour > 22)
    logit = 0.9 * (np.log(amount) - 3.5) + 1.3 * (np.log(distance) - 2) * (age < 200) + 1.2 * is_night + risk
    logit += np.where(device == "unknown", 2.0, 0) - 5.5
    is_fraud = draw.uniform(size=rows) < 1 / (1 + np.exp(-logit))
    columns = {
        "amount": amount.round(2),
        "hour": hour,
        "account_days": age.round(1),
        "distance_km": distance.round(2),
        "device": device,
        "shop": [f"shop {i}" for i in shop],
        "fraud": np.where(is_fraud, "yes", "no"),
    }
    write(folder / "payments.csv", columns)
    print(f"  {is_fraud.mean():.1%} are fraud")


def diabetes(folder: Path) -> None:
    """442 patients, and the progression of their disease after a year (25 to 346)."""
    from sklearn.datasets import load_diabetes

    data: Any = load_diabetes(scaled=False)
    columns = dict(zip(data.feature_names, data.data.T, strict=True))
    write(folder / "diabetes.csv", columns | {"progression": data.target})


def deliveries(folder: Path, rows: int = 8000) -> None:
    """Minutes until a parcel arrives, normal, with a deviation that depends on the inputs."""
    draw = np.random.RandomState(2)
    distance, stops = draw.uniform(0.5, 20, rows), draw.randint(0, 12, rows)
    hour, rain = draw.uniform(7, 21, rows), draw.gamma(0.5, 2, rows)
    rush = np.exp(-((hour - 17.5) ** 2) / 3) + np.exp(-((hour - 8.5) ** 2) / 2)
    mean = 8 + 2.2 * distance * (1 + 0.6 * rush) + 3.5 * stops + 1.5 * rain
    deviation = 1 + 0.25 * distance * (0.3 + rush) + 0.5 * stops
    minutes = mean + deviation * draw.normal(size=rows)
    values = {"distance_km": distance, "stops": stops, "hour": hour, "rain_mm": rain, "minutes": minutes}
    write(folder / "deliveries.csv", {name: np.round(column, 3) for name, column in values.items()})
    print(f"  with the true mean and deviation: RMSE {np.sqrt(np.mean(deviation**2)):.3f} minutes")


def rents(folder: Path, rows: int = 12_000) -> None:
    """Rents of flats: numbers of which some are missing, categories, a date and a text."""
    draw = np.random.RandomState(3)
    size = np.exp(draw.normal(4.1, 0.4, rows))
    rooms = np.clip(np.round(size / 25 + draw.normal(0, 0.6, rows)), 1, 8).astype(int)
    built = draw.randint(1890, 2024, rows)
    district = draw.randint(0, 40, rows)
    level = np.random.RandomState(4).normal(0, 0.25, 40)[district]
    heating = draw.choice(["gas", "district", "heat pump", "oil"], rows, p=[0.5, 0.25, 0.15, 0.1])
    days = draw.randint(0, 5 * 365, rows)
    words = {"balcony": 0.05, "garden": 0.08, "renovated": 0.1, "quiet": 0.02, "basement": -0.12, "noisy": -0.08}
    has = draw.uniform(size=(rows, len(words))) < 0.25
    texts = [", ".join(np.array([*words])[row]) for row in has]
    log_rent = 3.1 + 0.8 * np.log(size) + 0.02 * rooms + level + 0.05 * days / 365 + has @ np.array([*words.values()])
    log_rent += 0.1 * (heating == "heat pump") + 0.15 * (built > 2005) + 0.03 * np.sin(days / 365 * 2 * np.pi)
    rent = np.exp(log_rent + draw.normal(0, 0.08, rows))
    missing = draw.uniform(size=(4, rows)) < np.array([0.05, 0.15, 0.1, 0.02])[:, None]
    first = date(2021, 1, 1)
    columns = {
        "size": np.where(missing[0], "", size.round(1).astype(str)),
        "rooms": rooms,
        "built": np.where(missing[1], "", built.astype(str)),
        "district": [f"district {i}" for i in district],
        "heating": np.where(missing[2], "", heating),
        "listed": [first + timedelta(int(i)) for i in days],
        "description": np.where(missing[3], "", texts),
        "rent": rent.round(),
    }
    write(folder / "rents.csv", columns)
    print(f"  with everything known but the noise of 8 %: MAE {np.abs(rent - np.exp(log_rent)).mean():.1f}")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table in (payments, diabetes, deliveries, rents):
        table(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "data")
