"""A warm Python: imports an image's slow modules once, then forks for each job.

    PYTHON forkserver.py '["torch"]' < SOCKET      # standard input is a stream socket; the service starts this

The service writes one JSON object a line, {"id", "argv", "environment", "folder", "log", "container"}; the answers
are {"ready": seconds}, {"id", "pid"} and, when the process has ended, {"id", "status"} (negative for a signal).
Runs under the image's interpreter, so it uses the standard library only, and of this package namespace.py.
A job sees what `python SCRIPT …` would show it: its own session, environment, folder, arguments and sys.path.
"""

import atexit
import builtins
import contextlib
import gc
import importlib.machinery
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import namespace  # type: ignore[import-not-found]

# Python put this file's folder there, and modules of an image may be called what ours are.
del sys.path[0]
OWN_FILES = {__file__, runpy.__file__, "<frozen runpy>"}
Job = dict[
    str, Any
]  # {"id": int, "argv": list[str], "environment": dict[str, str], "folder": str, "log": str, "container": Container}


def serve(control: socket.socket) -> Job | None:
    """Fork a process for each request. Returns the request in the forked process, None when the service ended."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    running: dict[int, int] = {}
    pending = b""
    while True:
        sources: list[Any] = [control, wake_read]
        readable, _, _ = select.select(sources, [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            for pid, status in _ended(running):
                _send(control, {"id": running.pop(pid), "status": os.waitstatus_to_exitcode(status)})
        if control in readable:
            data = control.recv(1 << 16)
            if not data:
                return None
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                job: Job = json.loads(line)
                pid = _fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.close(wake_read)
                    os.close(wake_write)
                    control.close()
                    return job
                running[pid] = job["id"]
                _send(control, {"id": job["id"], "pid": pid})


def _fork() -> int:
    """Fork into a new session; the parent goes on when the session exists, so that its group can be signalled."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.setsid()
        os.close(write)
    else:
        os.close(write)
        os.read(read, 1)
        os.close(read)
    return pid


def _ended(running: dict[int, int]) -> list[tuple[int, int]]:
    return [result for result in (os.waitpid(pid, os.WNOHANG) for pid in running) if result[0]]


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def become(job: Job) -> None:
    """Take on the job's environment, files and arguments."""
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    try:
        namespace.enter(job["container"])
        os.chdir(job["folder"])
    except OSError as error:
        sys.exit(f"the container cannot be entered: {error}")
    os.environ.clear()
    os.environ.update(job["environment"])
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.path[:0] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    # Forks share numpy's global generator; a new process would seed it from the system.
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(random.SystemRandom().getrandbits(32))
    time.tzset()


def run(argv: list[str]) -> None:
    """What `python ARGV…` does, ARGV being SCRIPT … or -m MODULE …."""
    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    # Not runpy.run_path: it changes argv[0] and takes __main__ away again before atexit handlers run.
    sys.argv = argv
    path = str(Path(argv[0]).absolute())
    sys.path.insert(0, str(Path(path).resolve().parent))
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)  # ruff: ignore[exec-builtin]


def finish(code: int) -> None:
    """End the process as the interpreter would, without taking apart the modules that came warm (0.4 s).

    Threads are joined, atexit handlers run, and what the job has written to open files is flushed.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    # The frozen objects, those of the warm modules, are not among these.
    for item in gc.get_objects():
        # By type: isinstance asks objects for their class, and a proxy asks what may be gone.
        if (
            issubclass(type(item), (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom))
            and not item.closed
        ):
            with contextlib.suppress(OSError, ValueError):  # a pipe whose reader has gone
                item.flush()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def main() -> None:
    started = time.monotonic()
    for module in json.loads(sys.argv[1]):
        __import__(module)
    # Objects that no collection looks at again are pages that stay shared.
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=os.dup(0))
    _send(control, {"ready": round(time.monotonic() - started, 3)})
    job = serve(control)
    if job is None:
        return
    code = 0
    try:
        become(job)
        run(job["argv"])
    except SystemExit as error:
        code = exit_code(error)
    except BaseException as error:
        # As the interpreter would show it: without the frames of this file and of runpy.
        trace = error.__traceback__
        while trace and trace.tb_next and trace.tb_frame.f_code.co_filename in OWN_FILES:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        code = 1
    finish(code)


if __name__ == "__main__":
    main()
