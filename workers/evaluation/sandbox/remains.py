"""Removing what a program has left behind in a container."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from contextlib import suppress
from itertools import count
from pathlib import Path


def end_children(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and all of its own, and wait for them.

    For the first process of a container, to which orphans fall. Others in the
    container, such as a health check's, are not its children and stay.
    """
    if process.returncode is not None:
        return
    process.kill()
    process.wait()
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended == 0:
            for child in _children(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):
            status = (entry / "stat").read_text()
            if int(status.rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def empty(folder: Path) -> None:
    """Remove everything in a folder, however deep; the folder itself stays.

    What lies in a folder's folder is moved up first. So no path is longer than
    three names, where another way would need a descriptor or a call per level.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return
    names = (folder / f"removed-{number}" for number in count())
    while entries := list(folder.iterdir()):
        for path in entries:
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
                continue
            path.chmod(0o700)
            for child in path.iterdir():
                if stat.S_ISDIR(child.lstat().st_mode):
                    child.chmod(0o700)
                child.rename(next(name for name in names if not os.path.lexists(name)))
            path.rmdir()
