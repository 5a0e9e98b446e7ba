"""A file of JSON lines that only grows, and survives the death of its writer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpo.spec.errors import OutputError

Record = Mapping[str, Any]


class Journal:
    """Records of one file, in the order in which they were written."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def recover(self) -> int:
        """Cut off a last line that was not written to its end; the bytes that were cut.

        Only a line without its line break can be one, and only when it is no
        record: a prefix of a JSON object never is. A whole record that lacks
        its line break gets it.
        """
        with _writing(self.file), self.file.open("ab+") as stream:
            tail = _tail(stream.fileno(), stream.seek(0, os.SEEK_END))
            if not tail:
                return 0
            if _parse(tail) is not None:
                stream.write(b"\n")
                return 0
            return _cut(stream.fileno(), len(tail))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records. Raises OutputError for a line that is none."""
        with _writing(self.file), self.file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                record = _parse(line)
                if record is None:
                    raise OutputError(
                        f"{self.file}:{number}: given a line that is no record; allowed: the file "
                        "as it was written; restore it, or choose another output folder"
                    )
                yield record

    def append(self, records: Sequence[Record]) -> None:
        """Add records; on return they are on the disk.

        Raises OutputError when they cannot be written.
        """
        if not records:
            return
        lines = b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in records)
        with _writing(self.file), self.file.open("ab", buffering=0) as stream:
            view = memoryview(lines)
            while view:
                view = view[stream.write(view) :]
            os.fsync(stream.fileno())


def write_whole(file: Path, content: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    with _writing(file):
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2, ensure_ascii=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
        sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{file}: cannot be written: {error.strerror or error}; make room, or choose another "
            "output folder"
        ) from error


def _tail(descriptor: int, size: int) -> bytes:
    """What stands after the last line break."""
    block, tail = 1 << 16, b""
    while size > 0 and b"\n" not in tail:
        start = max(0, size - block)
        tail = os.pread(descriptor, size - start, start) + tail
        size = start
    return tail.rpartition(b"\n")[2]


def _cut(descriptor: int, length: int) -> int:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size - length)
    os.fsync(descriptor)
    return length


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
