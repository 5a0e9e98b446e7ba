"""From a file, a folder or a `datasets` name to rows, a chunk at a time.

Imports nothing heavy: the libraries for Parquet and for `datasets` names are
imported when such a source is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from workers.data.example import RowProblem
from workers.data.reading.fields import Row, describe
from workers.data.reading.files import (
    BYTE_ORDER_MARK,
    Read,
    kind_of,
    looks_like_file,
    open_text_file,
    refusal,
)
from workers.data.reading.hub import hub_rows
from workers.data.reading.records import json_rows
from workers.data.reading.tables import csv_rows, parquet_rows

CHUNK_SIZE = 4 << 20
"""Characters from which a chunk is full, however few its rows are."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a source: lines of JSON as they stand in the file, or parsed rows.

    Cheap to pickle, so that lines are decoded and parsed where they are used.
    """

    path: str
    first: int = 1
    """Number of the first line."""
    lines: bytes = b""
    parsed: tuple[tuple[str, Row | RowProblem], ...] = ()

    def rows(self) -> Iterator[tuple[str, Row | RowProblem]]:
        """Place and content, or the problem, of every row that is not blank, in order."""
        yield from self.parsed
        for number, line in enumerate(self.lines.split(b"\n"), start=self.first):
            if line and not line.isspace():
                where = f"{self.path}:{number}"
                yield where, parse_line(line, where)


def read_chunks(
    path: str,
    *,
    split: str = "train",
    records: list[str] | None = None,
    rows_per_chunk: int = 4096,
) -> Iterator[Chunk]:
    """The rows of a source in chunks of at most `rows_per_chunk`.

    `split` is that of a `datasets` name or a folder; a file has none.
    `records` are the keys of a JSON file under which its records lie, read one
    after the other; a dotted key goes deeper. At any time there is one chunk
    in memory, about 4 MiB of text or a single row where that is longer.

    Raises InputError, as late as the reading comes to it, for what concerns
    the whole source: not there, unreadable, damaged, in the wrong encoding,
    without a row.
    """
    chunk = None
    for chunk in _chunks(path, split, records, rows_per_chunk):
        yield chunk
    if chunk is None:
        raise refusal(path, "no rows", "one row or more")


def _chunks(path: str, split: str, records: list[str] | None, most: int) -> Iterator[Chunk]:
    if not os.path.isfile(path):
        if looks_like_file(path):
            raise refusal(path, "no such file", "a data file, or a `datasets` name")
        return _gathered(path, hub_rows(path, split), most)
    kind = kind_of(path)
    if records is not None and kind != "json":
        raise refusal(path, f"records: {records}", "records only for a .json file")
    match kind:
        case "jsonl":
            return _line_chunks(path, most)
        case "json":
            return _gathered(path, json_rows(path, records), most)
        case "csv":
            return _gathered(path, csv_rows(path), most)
        case "parquet":
            return _gathered(path, parquet_rows(path, most, CHUNK_SIZE), most)


def _line_chunks(path: str, most: int) -> Iterator[Chunk]:
    first = 1
    with open_text_file(path) as stream:
        while lines := stream.readlines(CHUNK_SIZE):
            for start in range(0, len(lines), most):
                joined = b"".join(lines[start : start + most])
                if not joined.isspace():
                    yield Chunk(path, first + start, lines=joined)
            first += len(lines)


def _gathered(path: str, rows: Iterable[Read], most: int) -> Iterator[Chunk]:
    parsed: list[tuple[str, Row | RowProblem]] = []
    total = 0
    for where, row, size in rows:
        parsed.append((where, row))
        total += size
        if len(parsed) == most or total >= CHUNK_SIZE:
            yield Chunk(path, parsed=tuple(parsed))
            parsed, total = [], 0
    if parsed:
        yield Chunk(path, parsed=tuple(parsed))


def parse_line(line: bytes, where: str) -> Row | RowProblem:
    """The object that a line of JSON holds, or why it holds none."""
    try:
        row = json.loads(line.removeprefix(BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        given = f"bytes that are no UTF-8 at column {error.start + 1}"
        return RowProblem(where, "encoding", given, "UTF-8 text")
    except json.JSONDecodeError as error:
        return _malformed(where, f"malformed JSON ({error.msg} at column {error.colno})")
    except ValueError:
        return _malformed(where, "a number with too many digits")
    except RecursionError:
        return _malformed(where, "JSON nested too deeply")
    if isinstance(row, dict):
        return row
    return _malformed(where, f"{describe(row)} for a line")


def _malformed(where: str, given: str) -> RowProblem:
    return RowProblem(where, "malformed", given, "one JSON object per line")
