"""Write data/shapes: 800 pictures of four drawn shapes, of unequal sizes, as PNG files in a folder for each class.

python scripts/data/shapes.py [FOLDER]        (needs Pillow)

Each shape is turned, in any dark color on any light one, with a line across and noise, so that no pixel tells it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COUNT = 200  # pictures of a class
CORNERS = {"circle": [1] * 40, "square": [1] * 4, "star": [1, 0.45] * 5, "triangle": [1] * 3}


def picture(name: str, random: np.random.RandomState) -> Image.Image:
    """A picture of a shape."""
    size = (random.randint(40, 80) * random.uniform(0.85, 1.15, 2)).astype(int)  # width, height
    background, color = (tuple(random.randint(low, low + 120, 3).tolist()) for low in (130, 0))
    line = tuple(random.randint(0, 256, 3).tolist())
    image = Image.new("RGB", (int(size[0]), int(size[1])), background)
    draw = ImageDraw.Draw(image)
    radius = random.uniform(0.28, 0.4) * size.min()
    center = size / 2 + random.uniform(-0.05, 0.05, 2) * size
    angles = random.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(len(CORNERS[name])) / len(CORNERS[name])
    points = center + radius * np.array(CORNERS[name])[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    draw.polygon([tuple(point) for point in points.tolist()], fill=color)
    draw.line([tuple(point) for point in (random.uniform(0, 1, (2, 2)) * size).tolist()], fill=line, width=2)
    noise = random.normal(0, 12, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def main(folder: Path) -> None:
    random = np.random.RandomState(0)
    for name in CORNERS:
        (folder / "shapes" / name).mkdir(parents=True, exist_ok=True)
        for i in range(COUNT):
            picture(name, random).save(folder / "shapes" / name / f"{i:03}.png")
    print(f"{len(CORNERS) * COUNT} pictures in {folder / 'shapes'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "data")
