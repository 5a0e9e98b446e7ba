"""Opens data files, and tells what is wrong with those that cannot be read."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, TypeAlias, cast

from hpo.spec.errors import InputError
from workers.data.example import RowProblem
from workers.data.reading.fields import Row

Read: TypeAlias = tuple[str, Row | RowProblem, int]
"""Place, content or problem, and length in characters of a row that was read."""

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BUFFER = 1 << 20

UTF_16 = ("text in UTF-16", "UTF-8; convert it with: iconv -f UTF-16 -t UTF-8 FILE > NEW")
NO_TEXT = {
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
    b"\x1f\x8b": ("a gzip file", "text, or a name that ends in .gz"),
    b"PAR1": ("a Parquet file", "text, or a name that ends in .parquet"),
    b"PK\x03\x04": ("a zip archive", "the files in it, unpacked"),
    b"\x28\xb5\x2f\xfd": ("a file packed with Zstandard", "the file unpacked"),
}
"""What files that are no text start with; what is told and asked for."""


def kind_of(path: str) -> Literal["jsonl", "json", "csv", "parquet"]:
    """How a file is read, by its ending; a text with an unknown one is JSONL."""
    name = path.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith(".csv"):
        return "csv"
    return "json" if name.endswith(".json") else "jsonl"


@contextmanager
def open_text_file(path: str) -> Iterator[BinaryIO]:
    """The bytes of a text file, unpacked where its name ends in `.gz`.

    A byte order mark of UTF-8 is left out. Raises InputError, also for what
    is found wrong while reading on: a packed file that is damaged or cut off.
    """
    try:
        with _open(path) as stream:
            start = stream.peek(4)[:4]
            _require_text(path, start)
            if start.startswith(BYTE_ORDER_MARK):
                stream.read(len(BYTE_ORDER_MARK))
            yield cast(BinaryIO, stream)
    except EOFError:
        raise refusal(
            path, "a gzip file whose end is missing", "a whole file; copy it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise refusal(path, f"a damaged gzip file ({error})", "a whole gzip file") from None
    except OSError as error:
        raise unreadable(path, error) from error


def _open(path: str) -> io.BufferedReader:
    packed = path.lower().endswith(".gz")
    raw: Any = gzip.GzipFile(path, "rb") if packed else io.FileIO(path)
    # Lines are cut in C here, not in gzip's Python.
    return io.BufferedReader(raw, BUFFER)


def _require_text(path: str, start: bytes) -> None:
    for sign, (given, allowed) in NO_TEXT.items():
        if start.startswith(sign):
            raise refusal(path, given, allowed)
    if b"\0" in start:
        # A character outside ASCII is a rare start for any of these formats.
        raise refusal(path, *UTF_16)


def looks_like_file(path: str) -> bool:
    """Whether a path that is no file can only have been meant as one."""
    if os.path.isdir(path):
        return False
    rooted = path.startswith(("/", "./", "../", "~"))
    return rooted or path.count("/") > 1 or path.lower().endswith(ENDINGS)


def unreadable(path: str, error: OSError) -> InputError:
    """The error for a file that the system does not give out."""
    reason = error.strerror or str(error)
    return refusal(path, f"a file that cannot be read ({reason})", "a readable file")


def refusal(where: str, given: str, allowed: str) -> InputError:
    """An error that concerns a whole file."""
    return InputError(f"{where}: given {given}; allowed: {allowed}")
