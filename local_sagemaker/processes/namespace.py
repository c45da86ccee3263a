"""A job's own view of the machine: its /opt/ml, its host name, its /etc/hosts; the rest is as it is.

    python namespace.py CONTAINER_JSON FOLDER ARGV…    # enter, change to FOLDER, become ARGV

Linux mount and UTS namespaces, inside a user namespace where the caller is not root: no privileges, no Docker, and
nothing to clean up, for they end with their last process. Both this service and the warm processes of other
interpreters use this file, so it imports the standard library only. See namespaces(7), user_namespaces(7).
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

OPT_ML = "/opt/ml"
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x04000000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_DUMPABLE, CAPABILITY_VERSION_3 = 4, 0x20080522
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
PROBE_LIMIT_S = 10.0

# {"ml": folder shown as /opt/ml, "hosts": file shown as /etc/hosts, "hostname": str, "isolated": no network but
#  its own loopback, "file_size": largest file in bytes}; each may be absent, and then nothing of it happens.
Container = dict[str, Any]


@cache
def unavailable() -> str | None:
    """Why jobs here cannot have a /opt/ml of their own; None when they can."""
    if sys.platform != "linux":
        return f"{sys.platform} has no mount namespaces"
    command = [*launcher({"ml": "/", "hostname": "algo-1"}, "/"), "/bin/true"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_LIMIT_S, text=True, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def launcher(container: Container, folder: str) -> list[str]:
    """The beginning of a command line that enters a container first."""
    return [sys.executable, "-I", "-S", __file__, json.dumps(container), folder]


def enter(container: Container) -> None:
    """Move this process, which must have one thread only, into the container. Raises OSError."""
    if size := container.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    # A core file of a process with torch in it is gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # Where memory runs out, a job is to end before the service does.
        Path("/proc/self/oom_score_adj").write_text("500")
    if "ml" not in container:
        return
    flags = CLONE_NEWNS | CLONE_NEWUTS | (CLONE_NEWNET if container.get("isolated") else 0)
    unprivileged = _unshare(flags)
    # What is mounted from here on stays here.
    _mount("none", "/", MS_REC | MS_PRIVATE)
    _mount_ml(container["ml"])
    if hosts := container.get("hosts"):
        _mount(hosts, "/etc/hosts", MS_BIND)
    if hostname := container.get("hostname"):
        socket.sethostname(hostname)
    if container.get("isolated"):
        _loopback_up()
    if unprivileged:
        _drop_capabilities()


def _unshare(flags: int) -> bool:
    """Leave the namespaces; whether a user namespace was needed for that."""
    user, group = os.geteuid(), os.getegid()
    if user == 0 and _libc().unshare(flags) == 0:
        return False
    if _libc().unshare(flags | CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare: this machine allows no user namespaces")
    # The same user inside as outside, so that files are whose they were.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _mount_ml(source: str) -> None:
    """Show a folder as /opt/ml. Where there is none to mount upon, /opt becomes a copy that has one."""
    held = os.open(source, os.O_PATH | os.O_DIRECTORY)
    if not Path(OPT_ML).is_dir():
        opt = os.open("/opt", os.O_PATH | os.O_DIRECTORY)
        entries = [(entry.name, entry.is_symlink(), entry.is_dir()) for entry in os.scandir("/opt")]
        _mount("tmpfs", "/opt", 0, "tmpfs")
        for name, is_link, is_folder in entries:
            original, copy = f"/proc/self/fd/{opt}/{name}", Path("/opt", name)
            if is_link:
                copy.symlink_to(Path(original).readlink())
                continue
            copy.mkdir() if is_folder else copy.touch()
            _mount(original, str(copy), MS_BIND | MS_REC)
        os.close(opt)
        Path(OPT_ML).mkdir()
    _mount(f"/proc/self/fd/{held}", OPT_ML, MS_BIND | MS_REC)
    os.close(held)


def _mount(source: str, target: str, flags: int, kind: str | None = None) -> None:
    if _libc().mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}: {os.strerror(ctypes.get_errno())}")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def _drop_capabilities() -> None:
    """Those that a new user namespace gave; exec would drop them, a forked job goes on without one."""
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    if _libc().capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
    # Changed credentials hide /proc/PID/environ from our own user, and with it the mark of keeper.py.
    _libc().prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def main() -> None:
    container, folder, *argv = sys.argv[1:]
    # Python ignores these two, and what it starts would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        enter(json.loads(container))
        os.chdir(folder)
        os.execvp(argv[0], argv)  # ruff: ignore[start-process-with-no-shell]
    except OSError as error:
        sys.exit(f"{argv[0]} cannot be started: {error}")


if __name__ == "__main__":
    main()
