"""scikit-learn's 1,797 handwritten digits as an ImageFolder: the demo's dataset, real and without a download.

    python -m scripts.digits var/data/digits

writes train/ (1,257), valid/ (180) and test/ (360) with ten class folders each, as 32x32 JPEG files, in about
2 s. The digits are 8x8 in scikit-learn; each is enlarged four times. The same files come out every time.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIZE = 32
TEST, VALIDATION = 360, 180


def write(folder: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    indices = list(range(len(labels)))
    rest, test = train_test_split(indices, test_size=TEST, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=VALIDATION, stratify=labels[rest], random_state=0)
    # A half-written folder must not pass for the dataset, and two may write it at once: the first to end counts.
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
        for split, members in (("train", train), ("valid", validation), ("test", test)):
            for index in members:
                path = Path(unfinished, folder.name, split, str(labels[index]), f"{index:04d}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                # scikit-learn's grey levels go from 0 to 16.
                pixels = (images[index].reshape(8, 8) * (255 / 16)).astype("uint8")
                Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(path, quality=95)
        try:
            Path(unfinished, folder.name).rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target)
    print(f"{sum(1 for _ in target.rglob('*.jpg'))} images in {target}")
