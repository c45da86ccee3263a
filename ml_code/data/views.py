"""Augmentation as K pictures of an image, drawn once: what is frozen can look at each of them once, too."""

import hashlib
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from data.preprocessing import Preprocessing

# Shares of the image's area and its proportions, as torchvision's reference training has them, but for the smallest
# share: 0.08 of a picture is often background, and here it would be looked at in one epoch out of K.
SCALE = (0.35, 1.0)
RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Views:
    """View 0 is the preprocessing's own crop, which is what is served; the others are random crops.

    What is drawn depends on seed, file name and number of the view alone: not on order, workers or instances.
    """

    count: int = 1
    flip: bool = True
    """Whether every other random view is mirrored. Not for pictures of writing."""
    seed: int = 0

    def __call__(self, preprocessing: Preprocessing, image: Image, file: str) -> Tensor:
        """uint8 [K, 3, S, S] from a decoded image."""
        drawn = [self._draw(preprocessing, image, file, number) for number in range(1, self.count)]
        return torch.stack([preprocessing.crop(image), *drawn])

    def _draw(self, preprocessing: Preprocessing, image: Image, file: str, number: int) -> Tensor:
        drawn = hashlib.sha256(f"{self.seed} {number} {file}".encode(errors="surrogateescape")).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(drawn[:7]))
            top, left, height, width = RandomResizedCrop.get_params(image, list(SCALE), list(RATIO))
            mirrored = self.flip and bool(torch.rand(()) < 0.5)
        view = preprocessing.cut(image, (left, top, left + width, top + height))
        return view.flip(2) if mirrored else view


ONE_VIEW = Views()
