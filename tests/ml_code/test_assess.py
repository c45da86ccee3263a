"""assess.py from archives to report, with a small network trained here on scikit-learn's digits."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assess import PROFILER_PAGE, assess, read_context
from jsonschema import Draft202012Validator
from PIL import Image
from sklearn.datasets import load_digits

from model import architectures
from model.artifact import load_model, save_model
from model.network import assemble
from report.page import SECTIONS
from tests.ml_code import recomputed

CODE = Path(__file__).parents[2] / "ml_code"
SIZE, EPOCHS = 32, 8
RULES = ["VanishingGradient", "PoorWeightInitialization", "LossNotDecreasing", "Overfit", "Overtraining"]


def split(number: int) -> str:
    return "train" if number < 30 else "validation" if number < 38 else "test"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of each digit in train/, 8 in validation/ and 8 in test/."""
    root = tmp_path_factory.mktemp("digits")
    pixels, labels = load_digits(return_X_y=True)
    for label in range(10):
        for number, index in enumerate(np.flatnonzero(labels == label)[:46]):
            file = root / split(number) / str(label) / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            grey = (pixels[index].reshape(8, 8) * (255 / 16)).astype("uint8")
            Image.fromarray(grey).resize((SIZE, SIZE)).save(file)
    return root


@pytest.fixture(scope="module")
def features(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    arguments = {"train": digits / "train", "validation": digits / "validation", "output": folder}
    run_script("features.py", {**arguments, "image-size": SIZE})
    return folder


def run_script(script: str, arguments: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, script, *words],
        cwd=CODE,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_job(folder: Path, features: Path, epochs: int) -> Path:
    """What a training job leaves: folder/model/model.tar.gz and folder/output/output.tar.gz."""
    environment = {
        f"SM_CHANNEL_{name.upper()}": str(features / name) for name in ("train", "validation", "trunk")
    }
    environment |= {"SM_MODEL_DIR": str(folder / "unpacked-model")}
    environment |= {"SM_OUTPUT_DATA_DIR": str(folder / "unpacked-output")}
    collections = [
        {"CollectionName": "losses", "CollectionParameters": {"save_interval": "1"}},
        {"CollectionName": "gradients", "CollectionParameters": {"train.save_interval": "2"}},
    ]
    hook = {"S3OutputPath": "s3://bucket/debug", "CollectionConfigurations": collections}
    arguments = {"lr": 0.01, "batch-size": 64, "epochs": epochs, "debug-hook-config": json.dumps(hook)}
    run_script("train.py", arguments, environment)
    system = folder / "unpacked-output" / "profiler-output" / "system" / "incremental" / "2026112109"
    shutil.rmtree(system.parents[2], ignore_errors=True)
    system.mkdir(parents=True)
    (system / "1790000000.algo-1.json").write_text("".join(system_lines()) + '{"Type": "cp')
    for kind in ("model", "output"):
        (folder / kind).mkdir()
        with tarfile.open(folder / kind / f"{kind}.tar.gz", "w:gz", compresslevel=1) as tar:
            tar.add(folder / f"unpacked-{kind}", ".")
    return folder


def system_lines() -> list[str]:
    line = {"Type": "cpu", "Dimension": "CPUUtilization", "NodeId": "algo-1"}
    return [
        json.dumps({**line, "Name": f"cpu{core}", "Value": 10.0 * core + i, "Timestamp": 1.79e9 + i / 2})
        + "\n"
        for i in range(21)
        for core in range(2)
    ]


def context(**changes: Any) -> dict[str, Any]:
    job = {"status": "Completed", "seconds": 3}
    tried = [(0.2, 0.01, 32), (0.3, 0.02, 64), (0.25, 0.005, 32), (0.9, 0.3, 128), (None, 0.1, 64)]
    document = {
        "run": {
            "dag_id": "retrain",
            "run_id": "manual__1",
            "pipeline": "<b>digits</b>",
            "started_at": "2026-11-21T09:00:00+00:00",
            "report_uri": "s3://bucket/reports/1/",
            "endpoint": "evergreen-digits",
        },
        "dataset": {
            "version": "abc",
            "source": "digits",
            "uri": "s3://b/d",
            "splits": {"train": {str(digit): 30 + digit for digit in range(10)}, "test": {"0": 8, "1": 8}},
            "ignored": {"count": 300, "examples": [{"file": "train/notes.txt", "reason": "it is no image"}]},
            "doubtful": {"count": 0, "examples": []},
            "duplicates": {"count": 1, "examples": [["train/3/7.jpg", "test/3/1.jpg"]]},
        },
        "features": None,
        "weights": None,
        "tuning": {
            "name": "tune",
            "strategy": "Bayesian",
            "objective": {"MetricName": "validation_loss", "Type": "Minimize"},
            "best": "tune-001",
            "jobs": [
                {
                    **job,
                    "name": f"tune-{number:03}",
                    "objective": objective,
                    "hyperparameters": {"lr": str(rate), "batch-size": size},
                }
                for number, (objective, rate, size) in enumerate(tried, start=1)
            ],
        },
        "training": {
            "name": "train-1",
            "hyperparameters": {"lr": "0.01"},
            "seconds": 9,
            "billable_seconds": 9,
            "instance_type": "ml.m5.xlarge",
        },
        "champion": None,
        "assess": {"explanations": "none"},
        "code": {"hash": "123", "git_revision": None},
        "rules": {name: {"policy": "warn", "parameters": {}} for name in RULES},
        "gate": {"minimum_accuracy": 0.5, "champion_margin": 0.1, "confidence": 0.95},
    }
    return {**document, **changes}


SERVING = {
    "endpoint": "evergreen-digits",
    "endpoint_config": "config-7",
    "model": "model-7",
    "model_data": "s3://b/m",
}


@pytest.fixture(scope="module")
def job(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("job"), features, EPOCHS)


@pytest.fixture(scope="module")
def weaker(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("weaker"), features, 1)


@pytest.fixture(scope="module")
def test_split(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split with one broken file."""
    folder = tmp_path_factory.mktemp("test") / "test"
    shutil.copytree(digits / "test", folder)
    (folder / "3" / "broken.jpg").write_bytes(b"\xff\xd8\xff half a picture")
    return folder


@pytest.fixture(scope="module")
def out(
    job: Path, weaker: Path, test_split: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a run through the command line, with a champion."""
    folder = tmp_path_factory.mktemp("out")
    asked = context(champion=SERVING, assess={"explanations": "summary", "licence": "CC BY 4.0"})
    (folder / "context.json").write_text(json.dumps(asked))
    arguments = {"model": job / "model", "training-output": job / "output", "test": test_split}
    arguments |= {"context": folder / "context.json", "champion": weaker / "model", "output": folder}
    arguments |= {"train-sample": digits / "train"}
    printed = run_script("assess.py", arguments)
    assert "decision=promote" in printed
    assert "stage=champion" in printed
    return folder


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    return document


def test_report_fits_its_schema(out: Path, report: dict[str, Any]) -> None:
    schema = json.loads((out / "report.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(report)
    assert json.loads((out / "rules.json").read_text()) == report["rules"]
    assert [rule["name"] for rule in report["rules"]] == RULES
    assert report["verdict"]["decision"] == "promote"


def test_every_number_follows_from_the_stored_predictions(out: Path, report: dict[str, Any]) -> None:
    """Recomputed by other code: scikit-learn, SciPy and pandas."""
    ours, theirs = (recomputed.read(out / f"{name}predictions.jsonl") for name in ("", "champion-"))
    assert len(ours) == report["metrics"]["count"] == 80
    assert all(max(row["probabilities"], key=row["probabilities"].get) == row["prediction"] for row in ours)
    train = report["dataset"]["splits"]["train"]
    recomputed.check_metrics(ours, report["metrics"], train)
    recomputed.check_metrics(theirs, report["champion"], train)
    recomputed.check_comparison(ours, theirs, report["champion"])
    recomputed.check_ranking(ours, report["metrics"]["ranking"])
    recomputed.check_importance(report["tuning"], report["importance"])


def test_every_figure_on_the_page_is_in_the_report(out: Path, report: dict[str, Any]) -> None:
    assert recomputed.check_page((out / "report.html").read_text(), report) > 250


def test_predictions_are_those_of_the_serving_path(out: Path, job: Path, test_split: Path) -> None:
    model = load_model(job / "unpacked-model")
    for line in (out / "predictions.jsonl").read_text().splitlines()[::9]:
        row = json.loads(line)
        content = (test_split / row["file"]).read_bytes()
        served = model.predict_proba(model.preprocessing(content)[None])[0].tolist()
        assert list(row["probabilities"].values()) == pytest.approx(served, abs=1e-5)


def test_unreadable_images_are_listed_and_counted_nowhere(report: dict[str, Any]) -> None:
    (unreadable,) = report["unreadable"]
    assert (unreadable["split"], unreadable["file"]) == ("test", "3/broken.jpg")
    assert unreadable["reason"]
    assert report["metrics"]["per_class"][3]["count"] == 8


def test_the_champion_is_compared_on_the_same_images(
    report: dict[str, Any], weaker: Path, test_split: Path
) -> None:
    champion = report["champion"]
    assert champion["comparable"]
    assert champion["difference"] == pytest.approx(report["metrics"]["accuracy"] - champion["accuracy"])
    low, high = champion["difference_interval"]
    assert low <= champion["difference"] <= high
    difference = champion["only_challenger_right"] - champion["only_champion_right"]
    assert difference / 80 == pytest.approx(champion["difference"])


def test_system_metrics_are_summarised(out: Path, report: dict[str, Any]) -> None:
    (cpu,) = report["profiler"]["system"]
    values = 5.0 + np.arange(21)
    assert (cpu["max"], cpu["p50"], cpu["min"], cpu["samples"]) == (25.0, np.percentile(values, 50), 5.0, 21)
    assert report["profiler"]["unreadable_lines"] == 1
    assert list((out / "profiler-output").rglob("*.algo-1.json"))


def test_smoke_images_cover_classes_and_agree_with_the_predictions(out: Path) -> None:
    rows = json.loads((out / "smoke" / "smoke.json").read_text())
    assert 4 <= len(rows) <= 5
    assert len({row["label"] for row in rows[:3]}) == 3
    assert all(row["label"] == row["prediction"] for row in rows[:3])
    assert all((out / "smoke" / row["file"]).is_file() and "/" not in row["file"] for row in rows)
    assert min(row["probability"] for row in rows) < max(row["probability"] for row in rows)


class Page(HTMLParser):
    VOID = {"meta", "link", "img", "br", "path", "use", "rect"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.links += [value or "" for key, value in attrs if key in {"href", "src", "xlink:href", "action"}]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check_page(text: str) -> Page:
    page = Page(text)
    assert page.open == []
    assert {name for name, _ in SECTIONS} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:", PROFILER_PAGE)) for link in page.links)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert not re.search(r"url\((?!#)|@import|<script|https?://", text)
    assert page.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert all(given.get("alt") for tag, given in page.tags if tag == "img")
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.tags}
    assert all(given.get("scope") in {"row", "col"} for tag, given in page.tags if tag == "th")
    assert all(given["tabindex"] == "0" for _, given in page.tags if given.get("role") == "region")
    assert all(given.get("aria-labelledby", page.ids[0]) in page.ids for _, given in page.tags)
    assert all(given.get("aria-label") for _, given in page.tags if given.get("role") in {"img", "region"})
    assert not re.search(r">\s*(nan|None|Undefined|inf)\s*<", text)
    assert len(text) < 5_000_000
    return page


def test_page_is_self_contained_and_complete(out: Path) -> None:
    text = (out / "report.html").read_text()
    page = check_page(text)
    assert sum(tag == "svg" for tag, _ in page.tags) >= 7
    assert "Promote: ship this model" in text
    assert "update-endpoint --endpoint-name evergreen-digits --endpoint-config-name config-7" in text
    assert "&lt;b&gt;digits&lt;/b&gt;" in text
    assert "<b>" not in text
    for said in ("3/broken.jpg", "test/3/1.jpg", "train/notes.txt", "the first 1 of 300"):
        assert said in text
    assert "prefers-color-scheme: dark" in text


def archive(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    folder.mkdir()
    with tarfile.open(folder / name, "w:gz") as tar:
        for path, content in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def test_the_barest_context_gets_a_report_that_says_what_is_missing(
    job: Path, test_split: Path, tmp_path: Path
) -> None:
    bare = archive(
        tmp_path / "bare", "output.tar.gz", {"history.json": b'{"epochs": [{"epoch": 1, "train_loss": NaN}]}'}
    )
    asked = context()
    least = {key: asked[key] for key in ("run", "gate")} | {"rules": {}}
    report = assess(job / "model", bare, test_split, least, None, tmp_path / "out")
    assert report["training"]["history"][0]["train_loss"] is None
    assert report["not_finite"] == ["training.history[0].train_loss"]
    assert report["champion"] is None
    assert report["explanations"]["reason"] is None
    assert report["metrics"]["baselines"]["prior"] == "test"
    text = (tmp_path / "out" / "report.html").read_text()
    check_page(text)
    for reason in (
        "saved no tensors",
        "No tuning job was given",
        "No rule was asked for",
        "wrote no system metrics",
        "wrote no step clock",
        "knows of no earlier run",
        "knows of no cost",
        "training counts were not given",
        "There is no champion",
    ):
        assert reason in text
    for heading, content in parts(text):
        assert len(content.split()) >= 2, f"nothing is said under {heading}"
    assert "delete-endpoint --endpoint-name evergreen-digits" in text


def parts(text: str) -> list[tuple[str, str]]:
    """Every heading of the page with the text up to the next one; a section's first counts its subsections' too."""
    found = re.findall(r"<(h[1-3])[^>]*>(.*?)</\1>(.*?)(?=<h[1-3]|</main>)", text, re.DOTALL)
    plain = [(tag, heading, re.sub(r"<[^>]+>", " ", content)) for tag, heading, content in found]
    return [
        (heading, content + (plain[i + 1][2] if tag != "h3" else ""))
        for i, (tag, heading, content) in enumerate(plain)
    ]


def test_a_rule_with_policy_fail_that_cannot_be_evaluated_holds(
    job: Path, test_split: Path, tmp_path: Path
) -> None:
    bare = archive(tmp_path / "bare", "output.tar.gz", {"history.json": b'{"epochs": []}'})
    strict = context(rules={"VanishingGradient": {"policy": "fail", "parameters": {}}}, champion=SERVING)
    report = assess(job / "model", bare, test_split, strict, None, tmp_path / "out")
    assert report["verdict"]["decision"] == "hold"
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Hold: do not ship this model" in text
    assert "the endpoint keeps its model" in text


def test_a_champion_that_cannot_answer_is_a_reason_and_no_obstacle(
    job: Path, test_split: Path, tmp_path: Path
) -> None:
    broken = archive(tmp_path / "champion", "model.tar.gz", {"model.json": b"{}"})
    report = assess(
        job / "model", job / "output", test_split, context(champion=SERVING), broken, tmp_path / "out"
    )
    assert report["champion"]["comparable"] is False
    assert report["verdict"]["decision"] == "promote"
    assert any("No comparison with the champion" in reason for reason in report["verdict"]["reasons"])
    check_page((tmp_path / "out" / "report.html").read_text())


def test_a_champion_without_an_archive_is_a_reason_and_no_obstacle(
    job: Path, test_split: Path, tmp_path: Path
) -> None:
    """The DAG leaves `--champion` out when the archive of what serves is gone from S3."""
    gate = {"minimum_accuracy": 0.5, "champion_margin": 0.1, "confidence": 0.95, "approve": "when_unsure"}
    report = assess(
        job / "model",
        job / "output",
        test_split,
        context(champion=SERVING, gate=gate),
        None,
        tmp_path / "out",
    )
    assert report["champion"]["reason"] == "its archive s3://b/m is not there."
    assert report["verdict"]["decision"] == "ask"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Ask: a person decides" in page
    check_page(page)


def test_a_champion_with_other_classes_is_not_comparable(job: Path, test_split: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(job / "unpacked-model", other / "unpacked")
    network = assemble(architectures.build("resnet18"), "resnet18", "fc", 11)
    manifest = json.loads((other / "unpacked" / "model.json").read_text())
    save_model(other / "unpacked", network, {**manifest, "classes": [*manifest["classes"], "x"]})
    with tarfile.open(other / "model.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(other / "unpacked", ".")
    report = assess(
        job / "model", job / "output", test_split, context(champion=SERVING), other, tmp_path / "out"
    )
    assert report["champion"]["comparable"] is False
    assert "1 are gone" in report["champion"]["reason"]


def test_an_archive_cannot_write_outside_its_folder(job: Path, test_split: Path, tmp_path: Path) -> None:
    hostile = archive(tmp_path / "hostile", "output.tar.gz", {"../../escaped.txt": b"x"})
    with pytest.raises(tarfile.OutsideDestinationError):
        assess(job / "model", hostile, test_split, context(), None, tmp_path / "out")


def test_missing_archives_and_wrong_contexts_say_what_is_wrong(
    job: Path, test_split: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no output.tar.gz"):
        assess(job / "model", job / "model", test_split, context(), None, tmp_path / "out")
    wrong = tmp_path / "context.json"
    wrong.write_text(json.dumps(context(rules={"Overfit": {"policy": "maybe"}})))
    with pytest.raises(ValueError, match="policy of Overfit"):
        read_context(wrong)
    wrong.write_text(json.dumps(context(gate=None)))
    with pytest.raises(ValueError, match="no gate"):
        read_context(wrong)


def test_log_loss_of_the_report_is_finite(report: dict[str, Any]) -> None:
    assert math.isfinite(report["metrics"]["log_loss"])
