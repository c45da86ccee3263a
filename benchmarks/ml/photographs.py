"""Photographs of 400 x 500 pixels, cut from the two that ship with scikit-learn: real JPEGs without a download.

    var/venv/ml/bin/python -m benchmarks.ml.photographs FOLDER TRAIN VALIDATION TEST

Eight classes, one for each quadrant of a temple and of a flower; each picture is a random region around a point of its
quadrant, brightened or darkened at random. 1,500 take 25 s and 130 MB. The same files come out every time.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

SIZE = (500, 400)
SPLITS = ("train", "valid", "test")


def write(folder: Path, counts: dict[str, int]) -> None:
    """`counts`: images of each split; a whole number of them for each class."""
    photographs = dict(
        zip(("temple", "flower"), map(Image.fromarray, load_sample_images().images), strict=True)
    )
    quadrants = [(name, x, y) for name in photographs for x in (0, 1) for y in (0, 1)]
    drawn = random.Random(0)  # ruff: ignore[suspicious-non-cryptographic-random-usage]
    for split, count in counts.items():
        for number in range(count):
            name, x, y = quadrants[number % len(quadrants)]
            path = folder / split / f"{name}-{'left' if x == 0 else 'right'}-{'top' if y == 0 else 'bottom'}"
            path.mkdir(parents=True, exist_ok=True)
            picture = _region(photographs[name], x, y, drawn)
            picture.save(path / f"{number:05}.jpg", quality=90)


def _region(photograph: Image.Image, x: int, y: int, drawn: random.Random) -> Image.Image:
    height = photograph.height * drawn.uniform(0.3, 0.5)
    width = height * SIZE[0] / SIZE[1]
    left = (photograph.width - width) * (x + drawn.random()) / 2
    top = (photograph.height - height) * (y + drawn.random()) / 2
    region = photograph.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return ImageEnhance.Brightness(region).enhance(drawn.uniform(0.6, 1.4))


if __name__ == "__main__":
    write(Path(sys.argv[1]), dict(zip(SPLITS, map(int, sys.argv[2:5]), strict=True)))
