"""Write data/sales.csv: the simulated daily sales of twelve shops in three years, with days of promotion.

python scripts/data/sales.py [FOLDER]        (the same numbers with every version of NumPy)

A shop has a level, a trend, a weekly and a yearly season, promotions that raise the sales of their days and lower those
of the two days after, and noise that lasts. Promotions are planned, so they are known for the days to predict: the
last 28 days have them without sales.
"""

import csv
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np

SHOPS, DAYS, PLANNED = 12, 3 * 365, 28


def shop(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """(sales [DAYS], promotions [DAYS + PLANNED]) of one shop."""
    day = np.arange(DAYS + PLANNED)
    level, trend = random.uniform(50, 2000), random.uniform(-1e-4, 4e-4)
    week = np.roll([0.75, 0.8, 0.85, 0.95, 1.2, 1.5, 0.95], random.randint(2))[day % 7]
    year = 1 + random.uniform(0.05, 0.25) * np.sin(2 * np.pi * (day / 365.25 + random.uniform()))
    promotion = (random.uniform(size=len(day)) < 0.08).astype(int)
    after = np.concatenate([[0, 0], promotion[:-2]]) + np.concatenate([[0], promotion[:-1]])
    effect = 1 + random.uniform(0.3, 0.7) * promotion - random.uniform(0.05, 0.15) * after
    noise = np.zeros(len(day))
    for i, shock in enumerate(random.normal(0, 0.05, len(day))):
        noise[i] = 0.7 * noise[i - 1] + shock
    sales = level * np.exp(trend * day + noise) * week * year * effect
    return np.round(sales[:DAYS], 1), promotion


def main(folder: Path) -> None:
    random, rows = np.random.RandomState(0), []
    for i in range(SHOPS):
        sales, promotions = shop(random)
        for day, promotion in enumerate(promotions.tolist()):
            value = sales[day] if day < DAYS else ""
            rows.append((date(2022, 1, 1) + timedelta(days=day), f"shop {i + 1}", value, promotion))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sales.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("day", "shop", "sales", "promotion"), *rows])
    print(f"{len(rows)} rows in {folder / 'sales.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "data")
