"""Both kinds of sandboxes, and what is seen of them from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from workers.evaluation.sandbox.run import Limits, Program, Run, Sandbox

ROOT = Path(__file__).resolve().parents[3]
NEEDS_ROOT = "the socket's folder is closed to the server's user, whom only root is not"
SOCKET = "/run/sandbox/socket"
NOBODY = 65534
FILES_BYTES = 16 << 20
LIMITS = Limits(seconds=20.0, memory_mib=256, threads=16, output_bytes=1 << 20)


@contextmanager
def server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The container's server as the first process of namespaces of its own; needs root.

    As in compose it is another user than its clients. Its files are this machine's,
    read-only; those of the image are another test's.
    """
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    namespaces = [f"--unshare-{name}" for name in ("user", "pid", "ipc", "net", "uts")]
    files = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for path in ("/tmp", "/dev/shm"):
        files += ["--perms", "1777", "--size", str(FILES_BYTES), "--tmpfs", path]
    own = ["--tmpfs", "/run", "--bind", str(folder), "/run/sandbox"]
    # The checkout may lie below a folder that is hidden here.
    own += ["--ro-bind", str(ROOT), "/run/checkout", "--ro-bind", sys.prefix, "/run/python"]
    own += ["--chdir", "/run/checkout", "--remount-ro", "/run"]
    python = ["/run/python/bin/python", "-m", "workers.evaluation.sandbox.server"]
    first = ["--as-pid-1", "--die-with-parent"]
    process = subprocess.Popen(
        [bwrap, *namespaces, *first, *files, *own, "--", *python, SOCKET],
        stdout=subprocess.DEVNULL,
        env={"PYTHONPATH": "/run/checkout"},
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder for a socket, whose path must be short."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-sandbox-"))
    os.chown(folder, NOBODY, NOBODY)
    try:
        yield folder
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


def run(sandbox: Sandbox, code: str, limits: Limits = LIMITS, stdin: bytes = b"") -> Run:
    """Run a script."""
    return sandbox.run(Program(code), stdin, limits)


def works(sandbox: Sandbox) -> bool:
    """Whether an honest program still does what it should."""
    return run(sandbox, "print(sum(range(10)))").output == b"45\n"


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Processes:
    """Processes below this one that were seen while something ran."""

    def __init__(self) -> None:
        self._before = set(psutil.Process().children(recursive=True))
        self.seen: set[psutil.Process] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look again and again."""
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def left(self) -> set[psutil.Process]:
        """Those that still run; a zombie is dead, the machine has only to note it."""
        now = set(psutil.Process().children(recursive=True)) - self._before
        return {process for process in now | self.seen if _alive(process)}

    def _look(self, stop: threading.Event) -> None:
        me = psutil.Process(os.getpid())
        while not stop.wait(0.01):
            self.seen |= set(me.children(recursive=True)) - self._before
