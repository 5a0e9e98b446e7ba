"""Rows of CSV and Parquet files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from hpo.spec.errors import InputError
from workers.data.example import RowProblem
from workers.data.reading.fields import Row
from workers.data.reading.files import Read, open_text_file, refusal, unreadable

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

LONGEST_FIELD = 64 << 20
"""Characters; what is longer has lost its closing quote."""
HEADER = "a header with the names of the columns, each once, in UTF-8"


class _Decoded:
    """Lines as text, numbered from 1; remembers where one was no UTF-8."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.number = 0
        self.bytes = 0
        self.broken: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        self.number += 1
        self.bytes += len(line)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            place = f"line {self.number}, column {error.start + 1}"
            self.broken = self.broken or f"bytes that are no UTF-8 at {place}"
            return line.decode(errors="replace")

    def taken(self) -> tuple[str | None, int]:
        """What was broken in the lines since the last call, and how long they are."""
        found = self.broken, self.bytes
        self.broken, self.bytes = None, 0
        return found


def csv_rows(path: str) -> Iterator[Read]:
    """The records of a CSV file below its header; a place is that of the first line.

    Raises InputError for a file without a header that can be used.
    """
    with open_text_file(path) as stream:
        lines = _Decoded(stream)
        reader = csv.reader(lines, strict=True)
        header = _header(path, reader, lines)
        while True:
            where = f"{path}:{lines.number + 1}"
            record = _next_record(reader, where)
            if record is None:
                return
            broken, size = lines.taken()
            if broken is not None:
                yield where, RowProblem(where, "encoding", broken, "UTF-8 text"), size
            elif isinstance(record, RowProblem) or not _is_blank(record, header):
                yield where, _row(record, header, where), size


def _header(path: str, reader: Iterator[list[str]], lines: _Decoded) -> list[str]:
    header: list[str] | RowProblem | None = []
    while header == []:
        header = _next_record(reader, path)
    broken, _ = lines.taken()
    if header is None:
        raise refusal(path, "no rows", HEADER)
    if isinstance(header, RowProblem) or broken is not None:
        raise refusal(path, broken or "a malformed header", HEADER)
    _require_once(path, header)
    return header


def _require_once(path: str, names: Sequence[str]) -> None:
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise refusal(path, f"two columns named {twice!r}", "columns with names of their own")


def _next_record(reader: Iterator[list[str]], where: str) -> list[str] | RowProblem | None:
    """The next record, why there is none, or None at the end."""
    # The limit belongs to the whole process; it is ours only for this call.
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        return next(reader, None)
    except csv.Error as error:
        allowed = "a record with its quotes closed, and doubled where they are text"
        return RowProblem(where, "malformed", f"malformed CSV ({error})", allowed)
    finally:
        csv.field_size_limit(before)


def _is_blank(record: list[str], header: list[str]) -> bool:
    """Whether a line holds nothing; in a table of one column, spaces are a value."""
    return not record or (len(record) == 1 < len(header) and not record[0].strip())


def _row(record: list[str] | RowProblem, header: list[str], where: str) -> Row | RowProblem:
    if isinstance(record, RowProblem):
        return record
    if len(record) == len(header):
        return dict(zip(header, record, strict=True))
    allowed = f"{len(header)} columns as in the header, with quotes around commas and line ends"
    return RowProblem(where, "malformed", f"{len(record)} columns", allowed)


def parquet_rows(path: str, rows: int, size: int) -> Iterator[Read]:
    """The rows of a Parquet file, read in batches of `rows` or about `size` bytes.

    Raises InputError for a file that is none.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise refusal(path, "a Parquet file", "Parquet where pyarrow is installed") from None
    try:
        with ParquetFile(path) as file:
            _require_once(path, file.schema_arrow.names)
            yield from _batched_rows(path, file, rows, size)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> InputError:
    # What Arrow finds wrong in the bytes may be an OSError, too, without a number.
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable(path, error)
    given = f"no Parquet file, or a damaged one ({' '.join(str(error).split())})"
    return refusal(path, given, "a whole Parquet file")


def _batched_rows(path: str, file: ParquetFile, rows: int, size: int) -> Iterator[Read]:
    groups = range(file.num_row_groups)
    stored = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    mean = max(1, stored // max(1, file.metadata.num_rows))
    number = 1
    for batch in file.iter_batches(batch_size=min(rows, max(1, size // mean))):
        for row in _values(batch, path, number):
            yield f"{path}:row {number}", row, mean
            number += 1


def _values(batch: Any, path: str, number: int) -> Iterator[Row | RowProblem]:
    """The rows of a batch; one by one where Python cannot hold a value of it."""
    try:
        yield from batch.to_pylist(maps_as_pydicts="lossy")
        return
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            yield _unfit(error, f"{path}:row {number}")
            return
    for index in range(len(batch)):
        yield from _values(batch.slice(index, 1), path, number + index)


def _unfit(error: Exception, where: str) -> RowProblem:
    if isinstance(error, UnicodeDecodeError):
        given = f"bytes that are no UTF-8 at byte {error.start + 1} of a text"
        return RowProblem(where, "encoding", given, "UTF-8 text")
    given = f"a value that cannot be read ({' '.join(str(error).split())})"
    return RowProblem(where, "malformed", given, "texts, numbers, booleans, lists and mappings")
