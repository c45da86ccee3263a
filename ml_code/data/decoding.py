"""The one image decoder: a file's bytes to RGB, or `UnreadableImageError` with the reason."""

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The endpoint takes these, so the dataset does: a model is not trained on what it cannot be asked.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
NAMES = "JPEG, PNG, WebP, GIF, BMP or TIFF"
_SIGNATURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
# A second frame is another picture. A JPEG's (MPO: a telephone's depth map or thumbnail) is none to look at.
_ONE_FRAME = frozenset({"PNG", "WEBP", "GIF", "TIFF"})

# Above MAX_IMAGE_PIXELS (89 million) Pillow only warns; its documentation recommends this line.
# https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.open
warnings.simplefilter("error", Image.DecompressionBombWarning)


class UnreadableImageError(ValueError):
    """The bytes are no image that can be used; the message is one sentence that says why."""

    status = 400
    """HTTP's word for it, where the bytes came with a request."""


def sniff(content: bytes) -> str | None:
    """`image/jpeg`, …, or None, from the first bytes: names and content types are not trusted."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), None)


def check(content: bytes) -> None:
    """Look at the head of a file, which costs a hundredth of decoding it.

    :raises UnreadableImageError: with the reason, unless it is an image's.
    """
    with _opened(content):
        pass


def decode(content: bytes, enough: int | None = None) -> Image.Image:
    """The image as RGB, upright, eight bits a channel, transparent parts on white.

    Truncated files are errors (Pillow's switch to fill them up stays off): half an image is a wrong image. So are
    animations and files of several pages: which of their pictures the label is for, nobody knows.

    :param enough: pixels of the shorter side that will do. A JPEG's decoder can leave out what is finer by a power of
        two, which takes a quarter of the time for 12 megapixels.
    :raises UnreadableImageError: with the reason.
    """
    with _opened(content) as image:
        if enough is not None:
            image.draft(None, (enough, enough))
        return _to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def _opened(content: bytes) -> Generator[Image.Image]:
    """The image, not decoded yet; what Pillow raises meanwhile becomes one sentence."""
    if not content:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.format in _ONE_FRAME and (frames := getattr(image, "n_frames", 1)) > 1:
                raise UnreadableImageError(f"it holds {frames} pictures, not one")
            yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(f"it is no {NAMES} file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's decoders raise at least seven types on hostile input
        raise UnreadableImageError(f"it cannot be decoded: {error or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImageError("its pixels are fractions, whose black and white nobody knows")
    if image.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion clips at 255, which turns nearly every such image white.
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
