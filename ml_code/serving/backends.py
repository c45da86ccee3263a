"""Ways to compute a network's logits on this machine, and which of them is the fastest.

    eager         torch, batch norms folded into the convolutions, channels last
    onnxruntime   the folded network exported to ONNX
    openvino      the same file, where openvino is installed
    compile       torch.compile; half a minute of compiling and a C compiler, so only where it is asked for
    int8          the archive's quantised network, where its accuracy was found good enough (serving/quantization.py)

Each takes float32 [N, 3, S, S] on the CPU to logits [N, C] with as many threads as torch may use in the thread that
calls it. In float32 all do the same arithmetic: what differs from torch by more than `TOLERANCE` in a probability is
not used.
"""

import importlib.util
import io
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

Backend = Callable[[Tensor], Tensor]
TOLERANCE = 1e-4
MEASURED_S, MOST_ROUNDS = 1.0, 5
INT8, INT8_NETWORK, INT8_MANIFEST = "int8", "model.onnx", "int8.json"
"""A folder of the model archive, and what is in it."""


@dataclass(frozen=True)
class Choice:
    name: str
    backend: Backend
    ms: dict[str, float]
    """Processor milliseconds an image of every candidate that was measured."""
    rejected: dict[str, str]
    """Why the others were not."""


class BackendError(Exception):
    """This backend cannot serve the network; the sentence says why."""


def choose(
    network: nn.Module, example: Tensor, names: Sequence[str], model_dir: Path, threads: Sequence[int]
) -> Choice:
    """The candidate that takes the least processor time for `example`, run with one thread as under load.

    :param example: float32 [N, 3, S, S]. :param threads: the numbers of threads that backends will be called with.
    :raises BackendError: when no candidate is left; naming the reason of each.
    """
    built: dict[str, Backend] = {}
    rejected: dict[str, str] = {}
    folded = _folded(network)
    exported: list[bytes] = []

    def onnx() -> bytes:
        # Exported once for all who read it, and not at all where nobody does.
        if not exported:
            exported.append(export(folded, example))
        return exported[0]

    builders: dict[str, Callable[[], Backend]] = {
        "eager": lambda: Eager(folded),
        "onnxruntime": lambda: OnnxRuntime(onnx(), threads),
        "openvino": lambda: OpenVino(onnx(), threads),
        "compile": lambda: Eager(torch.compile(folded)),
        INT8: lambda: OnnxRuntime(int8_network(model_dir), threads),
    }
    expected = Eager(network)(example).softmax(1)
    for name in names:
        try:
            backend = builders[name]()
            difference = float((backend(example).softmax(1) - expected).abs().max())
            if name != INT8 and not difference <= TOLERANCE:
                raise BackendError(f"a probability differs from torch's by {difference:.1e}")
            built[name] = backend
        except Exception as error:  # what an engine cannot do, it says in types of its own
            rejected[name] = str(error) or type(error).__name__
    if not built:
        raise BackendError("; ".join(f"{name}: {reason}" for name, reason in rejected.items()))
    ms = _measured(built, example) if len(built) > 1 else {}
    best = min(ms, key=lambda name: ms[name]) if ms else next(iter(built))
    return Choice(best, built[best], ms, rejected)


class Eager:
    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self._network = network

    def __call__(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._network(images.contiguous(memory_format=torch.channels_last))


class OnnxRuntime:
    """A session for each number of threads, since that is a session's for life."""

    def __init__(self, onnx: bytes, threads: Sequence[int]) -> None:
        runtime = installed("onnxruntime")
        self._sessions = {}
        for number in sorted(set(threads)):
            options = runtime.SessionOptions()
            options.intra_op_num_threads = number
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            # Threads that wait sleep: the processors are shared with decoding, and with other servers.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._sessions[number] = runtime.InferenceSession(
                onnx, options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, images: Tensor) -> Tensor:
        session = self._sessions[_nearest(self._sessions)]
        return torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])


class OpenVino:
    """A compiled network for each number of threads; a request of its own for each call, as calls come in threads."""

    def __init__(self, onnx: bytes, threads: Sequence[int]) -> None:
        core = installed("openvino").Core()
        network = core.read_model(onnx, b"")
        self._compiled = {
            number: core.compile_model(
                network,
                "CPU",
                # Else processors with bfloat16 compute in it.
                {"INFERENCE_NUM_THREADS": number, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"},
            )
            for number in sorted(set(threads))
        }

    def __call__(self, images: Tensor) -> Tensor:
        request = self._compiled[_nearest(self._compiled)].create_infer_request()
        return torch.from_numpy(request.infer({0: images.contiguous().numpy()})[0].copy())


def export(network: nn.Module, example: Tensor) -> bytes:
    """The network as an ONNX file: `images` float32 [n, 3, S, S] to `logits` [n, C].

    By torch's older exporter: the newer one takes ten times as long, 5 s for a ResNet18, and two more packages.
    """
    installed("onnx")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (example[:1],), file, dynamo=False,  # type: ignore[arg-type]  # the stubs know no BytesIO
            input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
        )  # fmt: skip
    return file.getvalue()


def _folded(network: nn.Module) -> nn.Module:
    # Imported here, when the archive's own packages are the first on the path.
    from model.artifact import channels_last
    from model.folding import fold_batch_norms

    return channels_last(fold_batch_norms(network))


def int8_network(model_dir: Path) -> bytes:
    """The archive's quantised network as an ONNX file.

    :raises BackendError: when it has none, or one that must not be used.
    """
    from model.artifact import MANIFEST, read_manifest, sha256_of

    folder = model_dir / INT8
    if not (folder / INT8_MANIFEST).is_file():
        raise BackendError("the model archive has no int8 network")
    manifest = read_manifest(folder, INT8_MANIFEST)
    if not manifest["accepted"]:
        raise BackendError(f"not accepted: {manifest['reason']}")
    if manifest["model_sha256"] != read_manifest(model_dir, MANIFEST)["sha256"]:
        raise BackendError("the int8 network was made from other weights")
    if sha256_of(folder / INT8_NETWORK) != manifest["sha256"]:
        raise BackendError("the int8 network's sha256 is not its manifest's")
    return (folder / INT8_NETWORK).read_bytes()


def installed(name: str) -> Any:
    """The module. :raises BackendError: when there is none."""
    if importlib.util.find_spec(name) is None:
        raise BackendError(f"{name} is not installed")
    # Since 1.29 it reports models and machines to Microsoft unless told not to before it is loaded:
    # https://github.com/microsoft/onnxruntime/pull/27379
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module(name)


def _nearest(by_threads: dict[int, Any]) -> int:
    wanted = torch.get_num_threads()
    return wanted if wanted in by_threads else min(by_threads, key=lambda number: abs(number - wanted))


def _measured(backends: dict[str, Backend], example: Tensor) -> dict[str, float]:
    """Processor milliseconds an image, in turn, medians; each has run once before."""
    took: dict[str, list[float]] = {name: [] for name in backends}
    before, end = torch.get_num_threads(), time.monotonic() + MEASURED_S
    torch.set_num_threads(1)
    try:
        for turn in range(MOST_ROUNDS + 1):
            for name, backend in backends.items():
                started = time.process_time()
                backend(example)
                if turn:  # the first round is the one with this number of threads
                    took[name].append(1000 * (time.process_time() - started) / len(example))
            if turn and time.monotonic() > end:
                break
    finally:
        torch.set_num_threads(before)
    return {name: median(times) for name, times in took.items()}
