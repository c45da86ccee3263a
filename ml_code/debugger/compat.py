"""smdebug 1.0.34, released in 2023, on today's Python, numpy and protobuf.

Importing anything of `debugger` imports this first. It can go when a release of smdebug
(https://github.com/awslabs/sagemaker-debugger, archived in 2023) or a successor makes each shim unnecessary.
"""

import os
import sys
import types
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

# smdebug's generated code is of protobuf 3; later versions accept it in their pure Python implementation only.
# Goes with protoc's output in smdebug: https://protobuf.dev/news/2022-05-06/#python-updates
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
# Its INFO and WARNING lines outnumber training's own; what a rule misses, its verdict says.
os.environ.setdefault("SMDEBUG_LOG_LEVEL", "error")


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """numpy 2.3 removed `tostring`: https://numpy.org/doc/2.3/release/2.3.0-notes.html"""

    def tostring(self) -> bytes:
        return self.tobytes()


class _NoTimeline:
    """In place of smdebug's writer of a timeline, which is a thread that waits, and calls what Python 3.12 deprecates:
    https://docs.python.org/3/library/datetime.html#datetime.datetime.utcfromtimestamp

    profiler/timeline.py writes ours.
    """

    def __init__(self, **_: Any) -> None:
        pass

    def write_trace_events(self, **_: Any) -> None:
        pass

    def close(self) -> None:
        pass


def strtobool(value: str) -> int:
    """`distutils.util.strtobool`, which left Python in 3.12: https://peps.python.org/pep-0632/"""
    value = value.lower()
    if value in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if value in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"invalid truth value {value!r}")


def _pyinstrument() -> dict[str, types.ModuleType]:
    """Empty names in its place where it is missing.

    smdebug pins pyinstrument 3.4.2, whose C extension does not load on Python 3.13, and uses it for the Python
    profiling of frameworks that AWS withdrew for PyTorch 2.
    """
    try:
        import pyinstrument as pyinstrument  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        package, renderers = types.ModuleType("pyinstrument"), types.ModuleType("pyinstrument.renderers")
        vars(package).update(Profiler=object, renderers=renderers)
        vars(renderers).update(JSONRenderer=object)
        return {"pyinstrument": package, "pyinstrument.renderers": renderers}
    return {}


def _distutils() -> dict[str, types.ModuleType]:
    package, util = types.ModuleType("distutils"), types.ModuleType("distutils.util")
    vars(package).update(util=util)
    vars(util).update(strtobool=strtobool)
    return {"distutils": package, "distutils.util": util}


@contextmanager
def _modules(stand_ins: dict[str, types.ModuleType]) -> Generator[None]:
    """`import` finds the stand-ins inside the block, and what it found before after it."""
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _check_protobuf() -> None:
    from google.protobuf import __version__  # type: ignore[import-untyped]
    from google.protobuf.internal import api_implementation  # type: ignore[import-untyped]

    if int(__version__.split(".")[0]) > 3 and api_implementation.Type() != "python":
        raise ImportError(
            f"protobuf {__version__} was imported before debugger.compat and smdebug cannot use it as it is: "
            "set PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python in the job's environment"
        )


def _import_smdebug() -> None:
    with _modules(_distutils() | _pyinstrument()), warnings.catch_warnings():
        # One warning for each field of each message, and from Python 3.12 on one for a pattern that is no raw string.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        import smdebug.core.hook
        import smdebug.core.tfevent.util
        import smdebug.core.writer

    make_tensor_proto = smdebug.core.tfevent.util.make_tensor_proto
    smdebug.core.writer.make_tensor_proto = lambda nparray_data, tag: make_tensor_proto(
        nparray_data.view(_Array), tag
    )
    smdebug.core.hook.TimelineFileWriter = _NoTimeline


_check_protobuf()
_import_smdebug()
