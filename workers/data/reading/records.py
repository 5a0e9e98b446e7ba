"""Records of a JSON file, taken one by one from a text of any length."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from hpo.spec.errors import InputError
from workers.data.example import RowProblem
from workers.data.reading.fields import Row, describe
from workers.data.reading.files import Read, open_text_file, refusal

BLOCK = 1 << 20
BLANK = re.compile(r"[ \t\n\r]*")
UNDECODED = re.compile("[\udc80-\udcff]")
LONGEST_TOKEN = 16
"""Longer than every JSON word and escape, but for texts and numbers."""
SHAPE = "a JSON list of records, or records: [KEY, ...] with the keys under which they lie"


class JsonStream:
    """Takes values from a JSON text and keeps no more than one of them.

    Bytes that are no UTF-8 are expected as surrogates U+DC80 to U+DCFF.
    """

    def __init__(self, stream: TextIO, path: str) -> None:
        self._stream, self._path = stream, path
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._start = "", 0, 0
        self._line, self._counted = 1, 0
        self._margin = 0
        """Characters of the text's first line that are gone already."""

    @property
    def line(self) -> int:
        """Number of the line of the next character."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    @property
    def size(self) -> int:
        """Characters of the last value."""
        return self._at - self._start

    def undecoded(self) -> int | None:
        """Column of the first byte in the last value that is no UTF-8."""
        found = UNDECODED.search(self._text, self._start, self._at)
        return None if found is None else self._column(found.start())

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            blank = BLANK.match(self._text, self._at)
            self._at = self._at if blank is None else blank.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, allowed: str) -> str:
        """The next character, one of those allowed. Raises InputError."""
        found = self.peek()
        if not found or found not in allowed:
            raise self._malformed(f"expecting {' or '.join(allowed)}", self._at)
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value. Raises InputError where there is none."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not (self._is_cut_off(error) and self._more()):
                    raise self._malformed(error.msg, error.pos) from None
            except ValueError:
                raise self._malformed("a number with too many digits", self._at) from None
            except RecursionError:
                raise self._malformed("nested too deeply", self._at) from None
            else:
                # The rest of a number may lie beyond what was read.
                if end < len(self._text) or not self._more():
                    self._start, self._at = self._at, end
                    return value

    def entries(self) -> Iterator[str]:
        """Step to the value of each entry of the list or mapping ahead.

        Gives its key, empty in a list. The caller takes or skips the value.
        """
        closing = "]" if self.take("[{") == "[" else "}"
        if self.peek() == closing:
            self.take(closing)
            return
        follows = ","
        while follows == ",":
            yield self._key() if closing == "}" else ""
            follows = self.take("," + closing)

    def skip(self) -> None:
        """Pass over the next value, keeping one entry of it at most."""
        if self.peek() not in ("[", "{"):
            self.value()
            return
        for _ in self.entries():
            self.value()

    def _key(self) -> str:
        key = self.value() if self.peek() == '"' else None
        if not isinstance(key, str):
            raise self._malformed("expecting a key in quotes", self._at)
        self.take(":")
        return key

    def _more(self) -> bool:
        """Read on, twice as much for a value that goes on and on."""
        block = self._stream.read(max(BLOCK, len(self._text) - self._at))
        if not block:
            return False
        self._line, self._margin = self.line, self._column(self._at) - 1
        self._text = self._text[self._at :] + block
        self._at = self._start = self._counted = 0
        return True

    def _is_cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether a value may be in order once more of it was read."""
        near_the_end = error.pos + LONGEST_TOKEN >= len(self._text)
        return near_the_end or error.msg.startswith("Unterminated string")

    def _column(self, at: int) -> int:
        newline = self._text.rfind("\n", 0, at)
        return at - newline if newline >= 0 else self._margin + at + 1

    def _malformed(self, reason: str, at: int) -> InputError:
        line = self.line + self._text.count("\n", self._at, at)
        where = f"{self._path}:{line}"
        if UNDECODED.match(self._text, at):
            reason = "bytes that are no UTF-8"
        given = f"malformed JSON ({reason} at column {self._column(at)})"
        return refusal(where, given, "one JSON value in UTF-8")


def json_rows(path: str, records: list[str] | None) -> Iterator[Read]:
    """The records of a JSON file: its list, or what lies under the keys `records`.

    The file is read once per key. Raises InputError for a file whose records
    are not found.
    """
    for key in records if records is not None else [_only_list(path)]:
        yield from _rows_under(path, key)


def _only_list(path: str) -> str:
    """The key of the only list in a mapping; empty where the file is a list itself."""
    with _open(path) as stream:
        start = stream.peek()
        if start == "[":
            return ""
        if start != "{":
            raise refusal(path, describe(stream.value()) if start else "an empty file", SHAPE)
        kinds: dict[str, str] = {}
        for key in stream.entries():
            kinds[key] = stream.peek()
            stream.skip()
        _require_end(path, stream)
    if list(kinds.values()) != ["["]:
        there = ", ".join(map(repr, kinds)) or "none"
        raise refusal(path, f"a JSON object with the keys {there}", SHAPE)
    return next(iter(kinds))


def _rows_under(path: str, name: str) -> Iterator[Read]:
    there: list[str] = []
    with _open(path) as stream:
        if name == "" and stream.peek() == "[":
            yield from _records(path, stream, "")
            _require_end(path, stream)
            return
        if stream.peek() != "{":
            raise refusal(path, f"records: {name!r} for a file without keys", SHAPE)
        found = False
        for _ in _steps_to(stream, name, there):
            found = True
            yield from _records(path, stream, name)
        _require_end(path, stream)
    if not found:
        keys = ", ".join(map(repr, there)) or "none"
        raise refusal(path, f"no key {name!r} (records)", f"a key that is there: {keys}")


def _steps_to(stream: JsonStream, name: str, there: list[str], above: str = "") -> Iterator[None]:
    """Step to the value under a dotted name; note the keys that are passed."""
    for key in stream.entries():
        there.append(above + key)
        if key == name:
            yield
        elif name.startswith(f"{key}.") and stream.peek() == "{":
            yield from _steps_to(stream, name[len(key) + 1 :], there, f"{above}{key}.")
        else:
            stream.skip()


def _records(path: str, stream: JsonStream, name: str) -> Iterator[Read]:
    """The entries of the list or mapping ahead."""
    under = f" of {name}" if name else ""
    if stream.peek() not in ("[", "{"):
        raise refusal(path, f"{describe(stream.value())} under {name!r}", SHAPE)
    for number, _ in enumerate(stream.entries(), start=1):
        stream.peek()
        where = f"{path}:{stream.line} record {number}{under}"
        row = stream.value()
        yield where, _checked(row, stream, where), stream.size


def _checked(row: Any, stream: JsonStream, where: str) -> Row | RowProblem:
    column = stream.undecoded()
    if column is not None:
        given = f"bytes that are no UTF-8 at column {column}"
        return RowProblem(where, "encoding", given, "UTF-8 text")
    if isinstance(row, dict):
        return row
    return RowProblem(where, "malformed", f"{describe(row)} for a record", "JSON objects")


def _require_end(path: str, stream: JsonStream) -> None:
    found = stream.peek()
    if found == "{":
        allowed = "one JSON value; a file with an object per line is named .jsonl"
        raise refusal(f"{path}:{stream.line}", "a second object", allowed)
    if found:
        raise refusal(f"{path}:{stream.line}", f"{found!r} after the end", "one JSON value")


@contextmanager
def _open(path: str) -> Iterator[JsonStream]:
    with (
        open_text_file(path) as stream,
        io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="") as text,
    ):
        yield JsonStream(text, path)
