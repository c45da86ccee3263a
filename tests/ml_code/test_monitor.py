"""monitor.py on real digits, captured as SageMaker captures them."""

import base64
import io
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import monitor
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from data import captured
from model.artifact import LoadedModel, load_model
from report.document import write_json
from report.drift import Snapshot, drift
from report.drift_page import charts
from report.sample import Sample, look
from tests.ml_code.conftest import TrainedModel
from tests.ml_code.test_splits import files

CHANGES: dict[str, Any] = {
    "inverted": ImageOps.invert,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(4)),
}


@pytest.fixture(scope="module")
def serving(trained: TrainedModel, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.tar.gz and the snapshot.json of its training images."""
    folder = tmp_path_factory.mktemp("serving")
    with tarfile.open(folder / "model.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(trained.model, ".")
    model: LoadedModel = load_model(trained.model)
    snapshot = Snapshot.of(look(model, digits / "train", files(digits / "train")), model.classes)
    write_json(folder / "snapshot.json", snapshot.as_json())
    return folder


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def line(body: bytes, kind: str = "image/jpeg", *, text: bool = False) -> str:
    given = {
        "observedContentType": kind,
        "mode": "INPUT",
        "data": body.decode() if text else base64.b64encode(body).decode(),
        "encoding": "JSON" if text else "BASE64",
    }
    event = {"eventId": "e", "inferenceTime": "2026-11-28T10:00:00Z"}
    return json.dumps({"captureData": {"endpointInput": given}, "eventMetadata": event, "eventVersion": "0"})


def capture(folder: Path, lines: Iterable[str], name: str = "one") -> Path:
    hour = folder / "capture/AllTraffic/2026/11/28/10"
    hour.mkdir(parents=True, exist_ok=True)
    (hour / f"{name}.jsonl").write_text("".join(f"{one}\n" for one in lines))
    return folder / "capture"


def held_out(digits: Path) -> list[Path]:
    return [path for split in ("validation", "test") for path in sorted((digits / split).rglob("*.jpg"))]


def looked(serving: Path, tmp_path: Path, capture: Path, minimum: int = 100) -> dict[str, Any]:
    paths = {"model": serving, "snapshot": serving, "capture": capture, "output": tmp_path / "out"}
    arguments = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    monitor.main([*arguments, "--minimum-images", str(minimum)])
    document: dict[str, Any] = json.loads((tmp_path / "out/drift.json").read_text())
    return document


def sample(predicted: list[int]) -> Sample:
    rng = np.random.default_rng(0)
    count = len(predicted)
    return Sample(
        files=[f"{number}.jpg" for number in range(count)],
        brightness=rng.random(count),
        contrast=rng.random(count),
        pixels=np.full(count, 64.0),
        thumbnails=np.zeros((count, 1024), np.float32),
        embeddings=rng.normal(size=(count, 4)).astype(np.float32),
        predicted=np.array(predicted),
    )


def test_the_page_names_the_classes_that_part_most() -> None:
    classes = [f"breed {number:02}" for number in range(30)]
    classes[7], classes[3] = "soft coated wheaten terrier", r"$\frac$ <b>"
    trained, asked = sample([*range(30)] * 10), sample([*range(30)] * 5 + [7] * 150)
    snapshot = Snapshot.of(trained, classes)
    drawn = {chart.title: chart for chart in charts(drift(snapshot, asked), snapshot, asked)}
    chart = drawn["Prediction"]
    assert chart.sentence.endswith("they part. Drawn are the 10 of 30 classes that part most.")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", str(chart.svg))
    assert {"soft coated wheaten t…", r"$\frac$ &lt;b&gt;"} <= set(texts)
    assert len([text for text in texts if text.startswith("breed")]) == 8


def drifted(document: dict[str, Any]) -> set[str]:
    return {row["name"] for row in document["measures"] if row["drifted"]}


def test_pictures_like_the_training_ones_show_no_drift(serving: Path, digits: Path, tmp_path: Path) -> None:
    found = looked(
        serving, tmp_path, capture(tmp_path, [line(path.read_bytes()) for path in held_out(digits)])
    )
    assert found["evaluated"]
    assert not found["drifted"], found["sentence"]
    assert found["images"] == found["captured"]["images"] == 100
    assert found["captured"]["first"] == "2026-11-28T10:00:00Z"
    assert "do not part" in found["sentence"]
    assert "PSI" in (tmp_path / "out/drift.html").read_text()


@pytest.mark.parametrize("change", ["inverted", "blurred", "one class"])
def test_other_pictures_do(serving: Path, digits: Path, tmp_path: Path, change: str) -> None:
    pictures = held_out(digits)
    if change == "one class":
        pictures = [
            path
            for path in [*pictures, *sorted((digits / "train").rglob("*.jpg"))]
            if path.parent.name == "3"
        ]
    lines = []
    for path in pictures:
        with Image.open(path) as image:
            lines.append(line(jpeg(CHANGES.get(change, lambda same: same)(image))))
    found = looked(serving, tmp_path, capture(tmp_path, lines), minimum=20)
    assert found["drifted"]
    expected = {"inverted": "brightness", "blurred": "contrast", "one class": "prediction"}[change]
    assert expected in drifted(found), found["sentence"]
    assert expected in found["sentence"]
    assert "They part from the training pictures" in (tmp_path / "out/drift.html").read_text()


def test_too_few_pictures_are_not_evaluated_and_what_is_none_is_counted(
    serving: Path, digits: Path, tmp_path: Path
) -> None:
    (first, second, third, *_) = (path.read_bytes() for path in held_out(digits))
    many = json.dumps({"instances": [{"b64": base64.b64encode(one).decode()} for one in (first, second)]})
    answers = {"captureData": {"endpointOutput": {}}, "eventMetadata": {}, "eventVersion": "0"}
    where = capture(
        tmp_path,
        [
            line(many.encode(), "application/json", text=True),
            line(third, ""),
            json.dumps(answers),
            "half a li",
            line(b"no picture"),
            line(third[:200]),
        ],
    )
    found = looked(serving, tmp_path, where)
    assert (found["evaluated"], found["drifted"], found["measures"]) == (False, False, [])
    assert found["images"] == 3
    unreadable = found["captured"]["unreadable"]
    assert unreadable["count"] == 4
    assert "capture_modes" in unreadable["examples"][0]["reason"]
    assert unreadable["examples"][0]["file"] == "AllTraffic/2026/11/28/10/one.jsonl, line 3"
    assert found["sentence"].startswith("not evaluated: 3 captured images are fewer than the 100")


def test_each_picture_is_as_likely_as_any_other_in_the_sample(digits: Path, tmp_path: Path) -> None:
    """With 100 pictures in 20 files and 25 taken, the mean position is the middle one, and none comes twice."""
    contents = [path.read_bytes() for path in held_out(digits)]
    order = {content: n for n, content in enumerate(contents)}
    assert len(order) == 100
    for number in range(20):
        some = contents[5 * number : 5 * number + 5]
        where = capture(tmp_path, [line(one) for one in some], f"{number:02}")
    images = tmp_path / "images"
    images.mkdir()
    found = captured.sample(where, images, 25)
    assert (found.images, len(found.files)) == (100, 25)
    taken = [order[(images / name).read_bytes()] for name in found.files]
    assert len(set(taken)) == 25
    # 25 of 100 without replacement: the mean's standard deviation is 5.
    assert abs(sum(taken) / 25 - 49.5) < 15
