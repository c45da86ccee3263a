"""From a decoded image to the network's input, defined once.

Feature extraction, training, assessment and serving all call `Preprocessing`, and its parameters travel in
`trunk.json` and `model.json`: what the network is served is, byte for byte, what it was trained on.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.decoding import decode

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize_size`, cut the central `image_size` square, normalise each channel.

    The same recipe as torchvision's `ImageClassification` transform, with one difference: resize and crop are
    one resampling of the region that is kept, so that a 1 x 60,000 image costs no more than any other.
    """

    image_size: int
    resize_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize_size:
            raise ValueError(
                f"image_size must be between 1 and resize_size: got {self.image_size} and {self.resize_size}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean and std need three numbers each, std above 0: got {self.mean}, {self.std}"
            )
        if self.interpolation not in _RESAMPLING:
            raise ValueError(
                f"interpolation must be one of {sorted(_RESAMPLING)}: got {self.interpolation!r}"
            )

    def __call__(self, image: bytes | Image.Image) -> Tensor:
        """float32 [3, S, S], from the bytes of an image file or from a decoded RGB image.

        :raises UnreadableImageError: when bytes are given that are no readable image.
        """
        return self.normalize(self.crop(image)[None])[0]

    def decode(self, content: bytes) -> Image.Image:
        """The image, with twice the pixels that are kept of its shorter side, or all where it has no more.

        Half of them would be enough, but for what a power of two cuts off: against decoding everything, no pixel of a
        crop differs by more than 5 of 255 grey levels this way, and by up to 24 with half (benchmarks/trunk.py).

        :raises UnreadableImageError: with the reason.
        """
        return decode(content, 2 * self.resize_size)

    def crop(self, image: bytes | Image.Image) -> Tensor:
        """uint8 [3, S, S]: everything that depends on the image's size; a quarter of the float's memory."""
        decoded = self.decode(image) if isinstance(image, bytes) else image
        width, height = decoded.size
        side = min(width, height) * self.image_size / self.resize_size
        left, top = (width - side) / 2, (height - side) / 2
        return self.cut(decoded, (left, top, left + side, top + side))

    def cut(self, image: Image.Image, box: tuple[float, float, float, float]) -> Tensor:
        """uint8 [3, S, S] of a region: left, top, right, bottom in the image's pixels."""
        resized = image.resize((self.image_size, self.image_size), _RESAMPLING[self.interpolation], box=box)
        return torch.from_numpy(np.array(resized, dtype=np.uint8)).permute(2, 0, 1).contiguous()

    def normalize(self, crops: Tensor) -> Tensor:
        """float32 [N, 3, S, S] from uint8 [N, 3, S, S], on the same device: (x / 255 - mean) / std."""
        mean = torch.tensor(self.mean, device=crops.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=crops.device).view(3, 1, 1)
        return crops.float().div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """:raises ValueError: when a parameter is missing or unknown."""
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(f"preprocessing must have exactly {sorted(names)}: got {sorted(values)}")
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
