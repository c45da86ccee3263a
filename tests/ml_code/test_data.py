"""Decoder, preprocessing and listing, on files of every awkward kind."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import data
from data.decoding import UnreadableImageError, decode, sniff
from data.images import ImageDataset, Samples, check_classes, check_readable, list_images, read_batches
from data.preprocessing import Preprocessing
from data.views import Views


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width: int = 40, height: int = 30) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height))


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_read_and_told_from_its_bytes(kind: str) -> None:
    content = encoded(photo(), kind)
    assert decode(content).size == (40, 30)
    assert sniff(content) == f"image/{kind.lower()}"


def test_a_telephones_jpeg_with_a_second_picture_is_its_first() -> None:
    content = encoded(photo(40, 30), "MPO", save_all=True, append_images=[photo(8, 8)])
    assert decode(content).size == (40, 30)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    image = decode(encoded(photo().convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(4, axis=0)
    decoded = np.asarray(decode(encoded(Image.fromarray(ramp))))
    assert np.array_equal(decoded[0, :, 0], ramp[0] >> 8)


def test_transparent_parts_are_white() -> None:
    assert decode(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: width and height change places
    assert decode(encoded(photo(40, 30), "JPEG", exif=exif)).size == (30, 40)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "no JPEG, PNG, WebP, GIF, BMP or TIFF"),
        (animation("GIF"), "holds 3 pictures"),
        (animation("WEBP"), "holds 3 pictures"),
        (animation("PNG"), "holds 3 pictures"),
        (animation("TIFF"), "holds 3 pictures"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "fractions"),
        (encoded(photo(400, 300), "JPEG")[:2000], "truncated"),
        (encoded(photo(400, 300), "PNG")[:2000], "truncated"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "no JPEG|cannot be decoded"),
    ],
)
def test_unreadable_bytes_have_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(content)


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 10_000)])
def test_decompression_bombs_are_refused(size: tuple[int, int]) -> None:
    bomb = encoded(Image.new("1", size))
    with pytest.raises(UnreadableImageError, match="more than 89,478,485 pixels"):
        decode(bomb)


def test_bombs_are_refused_where_warnings_are_not_errors(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(encoded(Image.new("1", (10_000, 10_000))))
    program = (
        "import sys; from data.decoding import decode, UnreadableImageError\n"
        "try: decode(open(sys.argv[1], 'rb').read())\n"
        "except UnreadableImageError as error: print(error)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.png")],
        cwd=Path(data.__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "more than 89,478,485 pixels" in printed.stdout


def test_a_jpeg_is_decoded_as_far_as_is_needed() -> None:
    smooth = photo(8, 8).resize((1600, 1200), Image.Resampling.BICUBIC)
    content = encoded(smooth, "JPEG", quality=95)
    assert decode(content, 512).size == (800, 600)
    assert decode(content, 700).size == (1600, 1200)
    assert decode(encoded(smooth, "PNG"), 512).size == (1600, 1200)
    preprocessing = Preprocessing(224, 256)
    difference = preprocessing.crop(content).int() - preprocessing.crop(decode(content)).int()
    assert difference.abs().max() <= 5


def test_other_bytes_have_no_format() -> None:
    assert sniff(b"RIFF....WAVE") is None
    assert sniff(b"<svg/>") is None


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (64, 48), (33, 32)])
def test_any_size_becomes_the_input_size(size: tuple[int, int]) -> None:
    tensor = Preprocessing(32, 36)(encoded(photo(*size)))
    assert tensor.shape == (3, 32, 32)
    assert tensor.dtype == torch.float32


def test_preprocessing_is_torchvisions_within_two_grey_levels() -> None:
    """Theirs rounds sizes, pixels and the crop's corner between resize and crop."""
    smooth = photo(8, 8).resize((300, 260), Image.Resampling.BICUBIC)
    theirs = models.ResNet18_Weights.DEFAULT.transforms()(smooth)
    ours = Preprocessing(224, 256)(smooth)
    assert (ours - theirs).abs().mean() < 2 / 255 / 0.225


def test_preprocessing_survives_json() -> None:
    preprocessing = Preprocessing(64, 73, interpolation="bicubic")
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    with pytest.raises(ValueError, match="exactly"):
        Preprocessing.from_dict({"image_size": 3})


def test_listing_is_sorted_and_complete(digits: Path) -> None:
    listing = list_images(digits / "train")
    assert listing.classes == tuple("0123456789")
    assert list(listing.samples) == sorted(listing.samples)
    assert set(listing.counts().values()) == {16}


def test_listing_refuses_classes_that_training_lacks(copy_of_digits: Path) -> None:
    (copy_of_digits / "validation" / "x").mkdir()
    with pytest.raises(ValueError, match="training split lacks: x"):
        list_images(copy_of_digits / "validation", tuple("0123456789"))


def test_unreadable_files_are_set_apart_with_reasons(copy_of_digits: Path) -> None:
    root = copy_of_digits / "train"
    (root / "3" / "004.jpg").write_bytes(b"no image")
    whole = (root / "0" / "000.jpg").read_bytes()
    (root / "0" / "000.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "0" / "999.gif").write_bytes(animation("GIF"))
    dataset = ImageDataset(root, list_images(root), Preprocessing(32, 32))
    batches = list(read_batches(dataset, 50))
    unreadable = [file for batch in batches for file in batch.unreadable]
    assert [file.file for file in unreadable] == ["0/000.jpg", "0/999.gif", "3/004.jpg"]
    assert sum(len(batch.labels) for batch in batches) == len(dataset) - 3
    with pytest.raises(ValueError, match=r"3 of 161 images .* 0/000\.jpg"):
        check_readable(unreadable, 161, 0.01)
    check_readable(unreadable, 161, 0.02)
    with pytest.raises(UnreadableImageError, match=r"0/000\.jpg"):
        dataset[0]


def test_a_class_without_readable_images_is_an_error() -> None:
    check_classes(("ant", "bee"), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="class bee has no readable image"):
        check_classes(("ant", "bee"), torch.tensor([0, 0]))


def test_a_million_names_take_no_more_than_a_batch() -> None:
    samples = Samples((f"class-{number % 7}/image-{number:07}.jpg", number % 7) for number in range(10_000))
    assert samples[9_999] == ("class-3/image-0009999.jpg", 3)
    assert list(samples[-2:]) == [samples[9_998], samples[-1]]
    with pytest.raises(IndexError):
        samples[10_000]
    assert samples.nbytes < 50 * len(samples)


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    for name in (b"a", b"b"):
        (tmp_path / name.decode()).mkdir()
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b"/\xff.png")).write_bytes(encoded(photo()))
    dataset = ImageDataset(tmp_path, list_images(tmp_path), Preprocessing(8, 8))
    assert dataset[1][1] == 1


def test_random_views_depend_on_seed_name_and_number_alone() -> None:
    draw, image = Views(3, seed=1), photo(40, 30)
    views = draw(Preprocessing(16, 16), image, "a/1.jpg")
    torch.manual_seed(9)
    assert torch.equal(views, draw(Preprocessing(16, 16), image, "a/1.jpg"))
    assert not torch.equal(views[1:], draw(Preprocessing(16, 16), image, "a/2.jpg")[1:])
    assert not torch.equal(views[1:], Views(3, seed=2)(Preprocessing(16, 16), image, "a/1.jpg")[1:])
    assert torch.equal(views[0], Preprocessing(16, 16).crop(image))


def test_writing_is_not_mirrored() -> None:
    names = [f"{number}.jpg" for number in range(20)]
    plain, mirrored = (
        [Views(2, flip)(Preprocessing(16, 16), photo(40, 30), name)[1] for name in names]
        for flip in (False, True)
    )
    flipped = [torch.equal(one, other.flip(2)) for one, other in zip(plain, mirrored, strict=True)]
    assert 3 < sum(flipped) < 17


def test_workers_read_the_same(digits: Path) -> None:
    root = digits / "test"
    dataset = ImageDataset(root, list_images(root), Preprocessing(32, 32))
    alone, together = ([batch.views for batch in read_batches(dataset, 16, workers)] for workers in (0, 2))
    assert torch.equal(torch.cat(alone), torch.cat(together))
