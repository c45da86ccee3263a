"""The one image decoder: bytes of a JPEG or PNG to RGB, or `UnreadableImageError` with the reason."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The endpoint takes these two, so the dataset does: a model is not trained on what it cannot be asked.
FORMATS = ("JPEG", "PNG")
_SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}

# Above MAX_IMAGE_PIXELS (89 million) Pillow only warns; its documentation recommends this line.
# https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.open
warnings.simplefilter("error", Image.DecompressionBombWarning)


class UnreadableImageError(ValueError):
    """The bytes are no image that can be used; the message is one sentence that says why."""


def sniff(content: bytes) -> str | None:
    """`image/jpeg`, `image/png` or None, from the first bytes: names and content types are not trusted."""
    return next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), None)


def decode(content: bytes) -> Image.Image:
    """The image as RGB, upright, eight bits a channel, transparent parts on white.

    Truncated files are errors (`ImageFile.LOAD_TRUNCATED_IMAGES` stays off): half an image is a wrong image.

    :raises UnreadableImageError: with the reason.
    """
    if not content:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is neither a JPEG nor a PNG file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's decoders raise at least seven types on hostile input
        raise UnreadableImageError(f"it cannot be decoded: {error or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion clips at 255, which turns nearly every such image white.
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
