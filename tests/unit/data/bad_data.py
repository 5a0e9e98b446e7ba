"""Files of every kind, each with one row of every kind that cannot be used."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

COLUMNS = ("prompt", "completion", "score")
GOOD = {"prompt": "1+1=", "completion": "2", "score": 0.5}
BAD: dict[str, dict[str, Any]] = {
    "missing field": {"prompt": "1+1=", "score": 0.5},
    "wrong type": {**GOOD, "score": 1.5},
    "empty completion": {**GOOD, "completion": " \n"},
}
BROKEN = "BROKEN"
"""Becomes a byte that is no UTF-8."""


@dataclass(frozen=True)
class BadFile:
    """Three rows, the second of which cannot be used for a reason of `kind`.

    Where columns stand for the whole file, a missing field is missing in each.
    """

    path: str
    kind: str
    where: str

    @property
    def bad_rows(self) -> int:
        table = self.path.removesuffix(".gz").endswith((".csv", ".parquet"))
        return 3 if table and self.kind == "missing field" else 1


def bad_files(folder: Path) -> Iterator[BadFile]:
    """Write the files."""
    writers: dict[str, Callable[[str], tuple[bytes, str]]] = {
        "jsonl": _jsonl,
        "ndjson": _jsonl,
        "jsonl.gz": _jsonl,
        "json": _json,
        "json.gz": _json,
        "csv": _csv,
        "csv.gz": _csv,
        "parquet": _parquet,
    }
    for kind in ("malformed", "encoding", *BAD):
        for ending, write in writers.items():
            path = folder / f"{kind.replace(' ', '-')}.{ending}"
            content, place = write(kind)
            path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
            yield BadFile(str(path), kind, f"{path}:{place}")


def _broken(text: str) -> bytes:
    return text.encode().replace(BROKEN.encode(), b"\xe4")


def _bad_row(kind: str) -> dict[str, Any]:
    return {**GOOD, "prompt": BROKEN} if kind == "encoding" else BAD[kind]


def _jsonl(kind: str) -> tuple[bytes, str]:
    bad = '{"prompt": ' if kind == "malformed" else json.dumps(_bad_row(kind))
    good = json.dumps(GOOD)
    return _broken(f"{good}\n\n{bad}\n{good}\n"), "3"


def _json(kind: str) -> tuple[bytes, str]:
    bad: Any = 3 if kind == "malformed" else _bad_row(kind)
    rows = ",\n".join(json.dumps(row) for row in (GOOD, bad, GOOD))
    return _broken(f"[\n{rows}\n]"), "3 record 2"


def _csv(kind: str) -> tuple[bytes, str]:
    columns = [name for name in COLUMNS if kind != "missing field" or name != "completion"]
    text = io.StringIO()
    writer = csv.writer(text)
    bad = ["alone"] if kind == "malformed" else [_bad_row(kind).get(name) for name in columns]
    good = [GOOD[name] for name in columns]
    writer.writerows([columns, good, bad, good])
    return _broken(text.getvalue()), "2" if kind == "missing field" else "3"


def _parquet(kind: str) -> tuple[bytes, str]:
    rows = [GOOD, GOOD if kind == "malformed" else _bad_row(kind), GOOD]
    names = [name for name in COLUMNS if name in rows[1]]
    columns = {name: pa.array([row[name] for row in rows]) for name in names}
    if kind == "malformed":
        # A day after the year 9999, which Python's dates do not reach.
        columns["day"] = pa.array([0, 10**7, 0], pa.int32()).cast(pa.date32())
    if kind == "encoding":
        columns["prompt"] = pa.array([b"1", b"\xe4", b"1"]).view(pa.string())
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes(), "row 1" if kind == "missing field" else "row 2"
