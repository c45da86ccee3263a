"""The local cloud: the SageMaker API, S3, IAM, STS, CloudWatch and Logs on this machine.

    python -m local_sagemaker --state var/cloud --port 7700 --aws-port 7701

Runs in the foreground until SIGTERM or Ctrl-C. When it answers (a second or two) it prints one line:

    {"sagemaker": "http://127.0.0.1:7700", "aws": "http://127.0.0.1:7701", "state": "/…/var/cloud", "pid": 4242}

Port 0 chooses a free one. It speaks on 127.0.0.1 only, unless `--host` gives it a name in a network of containers,
and asks for no credentials (any will do; "test" is usual). The state directory holds everything: documents.sqlite,
s3/ (objects as files), jobs/ (logs), log/.
"""

import argparse
import asyncio
import errno
import fcntl
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO, NoReturn

import psutil
import uvicorn

from local_sagemaker import log_format
from local_sagemaker.api.app import Service, application
from local_sagemaker.api.protocol import ACCOUNT
from local_sagemaker.aws.ministack import MiniStack
from local_sagemaker.cloud import Cloud, Settings
from local_sagemaker.images import Images
from local_sagemaker.jobs.roles import restore_roles
from local_sagemaker.processes import docker
from local_sagemaker.processes.keeper import Keeper, sweep
from local_sagemaker.processes.mark import new_mark

log = logging.getLogger("local_sagemaker")

LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = "0.0.0.0"  # ruff: ignore[hardcoded-bind-all-interfaces] - of a container, where --host says so
PORT_LIMIT_S = 1.0
"""For how long a port in use is asked for again: a killed process loses its environment, and with it its mark,
before its sockets are closed."""


def main() -> None:
    arguments = _arguments()
    if not re.fullmatch(r"\d{12}", ACCOUNT):
        _fail(f"LOCAL_SAGEMAKER_ACCOUNT is {ACCOUNT!r}, not the 12 digits of an account")
    state: Path = arguments.state.absolute()
    for folder in (state, state / "log", state / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(state)
    images = _images(arguments.images)
    log_format.configure(state / "log" / "service.log", arguments.log_format)
    # Before the ports are asked for: what a killed service left may still hold them.
    # An engine is asked only where a row needs one: it may take its time.
    left = docker.remove(f"{state}#") if images.in_docker else 0
    if count := sweep(f"{state}#") + left:
        log.warning("ended %d processes that a previous run left behind", count)
    interface = EVERY_INTERFACE if arguments.host else LOOPBACK
    listener = _listen(interface, arguments.port, "--port")
    aws_port = arguments.aws_port or _free_port()
    if arguments.aws_port:
        _listen(interface, arguments.aws_port, "--aws-port").close()
    mark = new_mark(state)
    keeper = Keeper(mark)
    ministack = MiniStack(state, interface, aws_port, mark)
    settings = Settings(
        state=state,
        sagemaker_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
        aws_url=ministack.url,
        host=arguments.host,
        mark=mark,
        images=images,
        slots=arguments.slots,
        stop_grace_s=arguments.stop_grace,
        memory_gib=arguments.job_memory,
    )
    try:
        cloud = Cloud(settings)
        service = Service(cloud)
        ministack.wait_until_ready()
        restore_roles(cloud)
        ministack.restarted = lambda: restore_roles(cloud)
        service.recover()
        asyncio.run(_serve(service, settings, listener))
        service.close()
    except RuntimeError as error:
        _fail(str(error))
    finally:
        ministack.close()
        sweep(mark)
        if images.in_docker:
            docker.remove(mark)
        keeper.close()
        lock.close()
        log.info("ended")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local_sagemaker", description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="directory for everything that is kept")
    parser.add_argument("--port", type=int, default=7700, help="port of the SageMaker API (0: a free one)")
    parser.add_argument(
        "--aws-port", type=int, default=7701, help="port of S3, IAM, STS, CloudWatch, Logs (0: free)"
    )
    parser.add_argument(
        "--host",
        help="the name by which others reach it: it then listens on every interface, for them to do as they like",
    )
    parser.add_argument("--images", type=Path, help="a file like images.yaml whose rows come first")
    parser.add_argument(
        "--slots",
        type=int,
        default=max(2, os.cpu_count() or 1),
        help="jobs that run at once (default: %(default)s)",
    )
    parser.add_argument(
        "--stop-grace",
        type=float,
        default=120.0,
        help="seconds between SIGTERM and SIGKILL (default: 120, as AWS)",
    )
    parser.add_argument(
        "--job-memory",
        type=float,
        default=round(psutil.virtual_memory().total * 0.8 / (1 << 30), 1),
        help="GiB that one job may hold before it is ended (default: %(default)s, 80 %% of this machine)",
    )
    parser.add_argument(
        "--log-format",
        choices=log_format.FORMATS,
        default="text",
        help="of the service's own log; json is an object a line",
    )
    return parser.parse_args()


def _fail(sentence: str) -> NoReturn:
    print(f"local_sagemaker: {sentence}", file=sys.stderr)
    sys.exit(1)


def _lock(state: Path) -> IO[str]:
    """Hold the state directory, or end with a sentence."""
    file = (state / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _fail(
            f"another instance is running on the state directory {state}; stop it or choose another with --state"
        )
    return file


def _images(extra: Path | None) -> Images:
    """The image rows, or the end with a sentence."""
    try:
        return Images(extra)
    except (ValueError, OSError) as error:
        _fail(f"the images file cannot be used: {error}; see --images")


def _listen(interface: str, port: int, option: str) -> socket.socket:
    """A bound socket, or the end with a sentence."""
    # The protocol is named because asyncio sets TCP_NODELAY only where it is; without it an answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    limit = time.monotonic() + PORT_LIMIT_S
    while True:
        try:
            listener.bind((interface, port))
            listener.listen(128)
            return listener
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > limit:
                _fail(
                    f"port {port} of {interface} cannot be used ({error.strerror}); choose another with {option}"
                )
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


async def _serve(service: Service, settings: Settings, listener: socket.socket) -> None:
    """Serve until a signal, then return."""
    # uvicorn gives the signal back when it has shut down; ending in order is the answer to it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        application(service), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        line = {
            "sagemaker": settings.sagemaker_url,
            "aws": settings.aws_url,
            "state": str(settings.state),
            "pid": os.getpid(),
        }
        print(json.dumps(line), flush=True)
        log.info(
            "serving on %s, AWS on %s, state in %s", settings.sagemaker_url, settings.aws_url, settings.state
        )
    await serving


if __name__ == "__main__":
    main()
