"""Folders that are built once, by one process at a time, and then only read."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpo.spec.errors import OutputError
from hpo.spec.identity import fingerprint

UNUSED_SECONDS = 30 * 24 * 3600.0
"""A folder that nobody opened for so long is deleted when another is built."""


class DataCache:
    """Prepared data below one folder, each under a key of everything it depends on."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of a key, built now if it is not there.

        While one process builds, others with the same key wait. `build` fills
        an empty folder, which takes its place when it is complete: a process
        that dies in the middle leaves nothing that could be taken for it.
        Raises OutputError when the folder cannot be written, and whatever
        `build` raises.
        """
        folder = self._root / key
        if not folder.is_dir():
            with self._writing(), self._locked(key):
                if not folder.is_dir():
                    self._build(folder, build)
        # When it was last used, by the clock of its file system.
        with suppress(OSError):
            os.utime(folder)
        return folder

    def place(self, key: str) -> Path:
        """Where the folder of a key is, or would be."""
        return self._root / key

    def forget(self, key: str) -> None:
        """Delete the folder of a key. Raises OutputError when it cannot be."""
        with self._writing(), self._locked(key):
            if (self._root / key).is_dir():
                shutil.rmtree(self._root / key)

    def fingerprint(self, path: str) -> str:
        """`hpo.spec.identity.fingerprint`, remembered while a file stays untouched.

        A file counts as untouched while its address, size, inode and times of
        change are the same: reading a large one again takes seconds.
        """
        local = Path(path).expanduser()
        if not local.is_file():
            return fingerprint(path)
        status = local.stat()
        seen = (str(local.resolve()), status.st_size, status.st_ino)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        name = hashlib.sha256(json.dumps([seen, times]).encode()).hexdigest()[:32]
        note = self._root / "files" / name
        with suppress(OSError):
            return note.read_text()
        found = fingerprint(path)
        # A file that changes now may change again within its clock's tick.
        if time.time_ns() - max(times) > 2 * 10**9:
            with suppress(OSError):
                note.parent.mkdir(parents=True, exist_ok=True)
                partial = note.with_suffix(f".{os.getpid()}")
                partial.write_text(found)
                partial.replace(note)
        return found

    def _build(self, folder: Path, build: Callable[[Path], None]) -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        # Whoever left it is dead: the lock is ours.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.replace(folder)
        self._forget()

    def _forget(self) -> None:
        oldest = time.time() - UNUSED_SECONDS
        for folder in self._root.iterdir():
            with suppress(OSError):
                if len(folder.name) == KEY_LENGTH and folder.stat().st_mtime < oldest:
                    shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold the key's lock; the kernel lets go of it when the process dies."""
        locks = self._root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / key).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"prepared data cannot be written below {self._root}: {error.strerror or error}; "
                "make room, or choose another state folder with HPO_HOME"
            ) from error


KEY_LENGTH = 40


def key_of(content: Any) -> str:
    """A key for a tree of plain values."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
