"""From one process for each host of a job to the processes that train together.

SageMaker starts train.py once on each host. Where there are several hosts, or several GPUs on one, it runs torchrun
there, which runs train.py again, once for each GPU (once on a host without), with the variables of
https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables.
"""

import json
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from model.distributed import Group

# AWS's PyTorch images set it too: sagemaker_pytorch_container/training.py.
MASTER_PORT = "7777"
START_SECONDS = 600
_FAILURE = "train.py/failure"


class LaunchError(RuntimeError):
    """A process of the training has ended; the message is its own sentence where it had one to say."""


def torchrun_arguments(environment: Mapping[str, str], devices: int) -> list[str] | None:
    """What torchrun is to be told on this host; None where one process is all, or torchrun has started this one."""
    hosts = json.loads(environment.get("SM_HOSTS") or "[]") or ["localhost"]
    if "RANK" in environment or (len(hosts) == 1 and devices < 2):
        return None
    return [
        f"--nnodes={len(hosts)}",
        f"--node-rank={hosts.index(environment.get('SM_CURRENT_HOST', hosts[0]))}",
        f"--nproc-per-node={max(devices, 1)}",
        f"--master-addr={environment.get('MASTER_ADDR') or hosts[0]}",
        f"--master-port={environment.get('MASTER_PORT') or MASTER_PORT}",
    ]


def run(script: Path, argv: Sequence[str], arguments: Sequence[str], failure: Path | None) -> int:
    """torchrun, until this host's processes have ended; the exit status.

    :raises LaunchError: when a process ended without writing `failure`.
    """
    from torch.distributed import run as torchrun  # takes a tenth of a second; most jobs are of one process
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.main([*arguments, str(script), *argv])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if failure is None or not failure.is_file():
            raise LaunchError(
                f"process {first.local_rank} of this host ended with status {first.exitcode}"
            ) from error
        return 1
    except SignalException as end:  # the job is stopped, or another host has failed
        return 128 + end.sigval
    return 0


@contextmanager
def group(
    describe: Callable[[BaseException], str], environment: Mapping[str, str] = os.environ
) -> Generator[Group]:
    """The processes that torchrun has started, or the one that there is.

    Where one fails, the others' next sum or broadcast does; they then fail with its sentence, not with that of a
    lost connection.

    :param describe: an exception's sentence.
    """
    if "RANK" not in environment:
        yield Group()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    timeout = timedelta(seconds=START_SECONDS)
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere if rank else sys.stdout):
            yield Group(rank, size, int(environment.get("LOCAL_WORLD_SIZE", "1")))
    except Exception as error:
        first = sentence = describe(error)
        with suppress(RuntimeError):  # the store goes with the first host
            first = store.compare_set(_FAILURE, "", sentence).decode()
        if first != sentence:
            raise LaunchError(first) from error
        raise
    dist.destroy_process_group()
