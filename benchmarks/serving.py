"""Our server against the usual way and TorchServe: the same network, the same machine, in turn.

    make bench NAME=serving                     # ResNet18, about 7 minutes on 2 cores
    ARCH=resnet50 make bench NAME=serving       # about 12 minutes

A network of 133 classes at 224 pixels and a JPEG of 500 x 400, asked by 1, 8 and 32 callers, a fixed number of
requests in every round and none left over at its end. The ways: our server in float32 and in int8; Flask below one
gunicorn worker running eager float32 (benchmarks/ml/serving_flask.py); TorchServe 0.12 with one worker and its own
image_classifier. The first time it fetches Flask, gunicorn, TorchServe and a Java runtime into an environment of its
own; where TorchServe cannot be had its figure is null.

The limit is cores / processor seconds of decoding and a forward pass, measured between the rounds in the server's own
functions, nothing beside them. The load generator's 0.1 ms a request and the HTTP server's share come out of the same
processors. At 70 % of our throughput with 8 callers, requests come at a steady rate, and p99 is held against p50. It is
shown, and not held, for requests at random moments: with two processors and answers that take equally long, p99 is more
than 3 times p50 by their coincidences alone. Figures are medians over the rounds.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.servers.ways import ML, Server, flask, install, ml_path, ours, torchserve
from scripts.bench import conditions
from scripts.local_stack import REPOSITORY

ARCH = os.environ.get("ARCH", "resnet18")
ROUNDS = 4
REQUESTS = {1: 30, 8: 240, 32: 384}
OPEN_REQUESTS = 200


def run() -> dict[str, Any]:
    install()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        image, disagreements = _prepare(folder)
        limits = _Limits(stack, folder, image)
        servers = [
            stack.enter_context(ours(folder / "model", "float32", folder)),
            stack.enter_context(flask(folder / "model", folder)),
            stack.enter_context(ours(folder / "int8", "int8", folder)),
        ]
        try:
            servers.append(stack.enter_context(torchserve(ARCH, folder)))
        except (OSError, subprocess.CalledProcessError, TimeoutError) as error:
            print(f"TorchServe is not measured: {error}", file=sys.stderr)
        for server in servers:
            server.load("closed", 8, 16, image)
        rounds = [_round(servers, limits, image, number) for number in range(ROUNDS)]
    figures = _figures(rounds) | {"int8_disagreements": disagreements}
    bounds = _bounds(figures)
    for sentence, met in bounds.items():
        print(f"{'ok  ' if met else 'MISS'} {sentence}", file=sys.stderr)
    return {
        "figures": figures,
        "conditions": conditions(arch=ARCH, rounds=ROUNDS, loads=[one["load"] for one in rounds]),
        "ok": all(bounds.values()),
    }


def _round(servers: Sequence[Server], limits: "_Limits", image: Path, number: int) -> dict[str, Any]:
    said: dict[str, Any] = {"load": round(os.getloadavg()[0], 2), "limit": limits.measure()}
    for callers, requests in REQUESTS.items():
        # A different one begins every time.
        for server in (*servers[number % len(servers) :], *servers[: number % len(servers)]):
            said[f"{server.name} {callers}"] = server.load("closed", callers, requests, image)
    print(
        f"round {number} (load {said['load']}): "
        + ", ".join(
            f"{key} {REQUESTS[int(key.split()[1])] / value['seconds']:.1f}/s ({value['server_cpu_ms']:.0f} ms of cpu)"
            for key, value in said.items()
            if key.split()[-1].isdigit()
        ),
        file=sys.stderr,
    )
    rate = 0.7 * REQUESTS[8] / said["float32 8"]["seconds"]
    for way in ("steady", "random"):
        said[way] = servers[0].load(way, rate, OPEN_REQUESTS, image)
    return said


def _figures(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        key: round(median(one["limit"][key] for one in rounds), 2)
        for key in ("decode_cpu_ms", "forward_cpu_ms", "forward_ms")
    }
    figures["backend"] = rounds[0]["limit"]["backend"]
    cores = os.cpu_count() or 1
    limit = 1000 * cores / (figures["decode_cpu_ms"] + figures["forward_cpu_ms"])
    figures["limit_per_second"] = round(limit, 1)
    ways = list(dict.fromkeys(key.split()[0] for key in rounds[0] if key.split()[-1].isdigit()))
    for way in ways:
        for callers, requests in REQUESTS.items():
            of_way = [one[f"{way} {callers}"] for one in rounds]
            figures[f"{way} {callers}"] = {
                "per_second": round(median(requests / one["seconds"] for one in of_way), 1),
                "p50_ms": round(median(median(one["milliseconds"]) for one in of_way), 1),
                "server_cpu_ms": round(median(one["server_cpu_ms"] for one in of_way), 1),
            }
    for way in ("steady", "random"):
        milliseconds = sorted(value for one in rounds for value in one[way]["milliseconds"])
        figures[f"at_70_percent {way}"] = {
            "requests": len(milliseconds),
            "refused": sum(one[way]["statuses"].get("503", 0) for one in rounds),
            "p50_ms": round(median(milliseconds), 1),
            "p99_ms": round(milliseconds[int(0.99 * len(milliseconds))], 1),
        }
    for callers in (8, 32):
        served = figures[f"float32 {callers}"]["per_second"]
        figures[f"ratios {callers}"] = {
            "of_limit": round(served / limit, 3),
            "to_usual": round(served / figures[f"usual {callers}"]["per_second"], 2),
            "to_torchserve": round(served / figures[f"torchserve {callers}"]["per_second"], 2)
            if "torchserve" in ways
            else None,
            "int8_to_usual": round(
                figures[f"int8 {callers}"]["per_second"] / figures[f"usual {callers}"]["per_second"], 2
            ),
        }
    return figures


def _bounds(figures: dict[str, Any]) -> dict[str, bool]:
    said: dict[str, bool] = {}
    for callers in (8, 32):
        ratios = figures[f"ratios {callers}"]
        said[f"{callers} callers: {ratios['of_limit']:.0%} of the limit, at least 90 %"] = (
            ratios["of_limit"] >= 0.9
        )
        said[f"{callers} callers: {ratios['to_usual']} times the usual way, at least 1.7"] = (
            ratios["to_usual"] >= 1.7
        )
        said[f"{callers} callers: int8 {ratios['int8_to_usual']} times the usual way, at least 3"] = (
            ratios["int8_to_usual"] >= 3
        )
        if ratios["to_torchserve"]:
            said[f"{callers} callers: {ratios['to_torchserve']} times TorchServe, at least 2"] = (
                ratios["to_torchserve"] >= 2
            )
    more = figures["float32 1"]["p50_ms"] - figures["forward_ms"]
    said[f"1 caller: {more:.1f} ms more than a forward pass, at most 5"] = more <= 5
    open_ = figures["at_70_percent steady"]
    said[
        f"at 70 %, steady: p99 {open_['p99_ms']} ms, at most 3 times p50 {open_['p50_ms']} ms; none refused"
    ] = open_["p99_ms"] <= 3 * open_["p50_ms"] and not open_["refused"]
    return said


def _ml(*arguments: str) -> str:
    command = [str(ML), "-W", "ignore", "-m", *arguments]
    environment = {**os.environ, "PYTHONPATH": ml_path()}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _prepare(folder: Path) -> tuple[Path, float]:
    """An image, and the share of others that int8 answers otherwise."""
    _ml("benchmarks.ml.photographs", str(folder / "photographs"), "0", "0", "160")
    photographs = folder / "photographs/test"
    _ml("benchmarks.ml.serving_model", ARCH, str(folder / "model"), "224")
    said = json.loads(_ml("benchmarks.ml.serving_model", ARCH, str(folder / "int8"), "224", str(photographs)))
    return next(photographs.rglob("*.jpg")), said["disagreements"] / said["images"]


class _Limits:
    """benchmarks/ml/serving_limit.py, asked between the rounds."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, image: Path) -> None:
        command = [str(ML), "-m", "benchmarks.ml.serving_limit", str(folder / "model"), str(image)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": ml_path(), "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(self._end)

    def _end(self) -> None:
        self._process.communicate()

    def measure(self) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said
