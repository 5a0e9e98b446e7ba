"""`python -m benchmarks.data GSM8K_TRAIN [--rows N] [--plain-rows N]`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.data.grow import grow
from benchmarks.data.settings import CLEANING, FRACTION, SEED
from benchmarks.data.tokenizer import make_tokenizer


@dataclass(frozen=True)
class Run:
    """One process, timed from outside."""

    seconds: float
    peak: int
    """Most bytes of resident memory, its children's included."""
    content: dict[str, Any]


def main() -> None:
    """Grow the data, prepare it both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="train.jsonl of GSM8K")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--plain-rows", type=int, help="fewer rows for the plain way")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as name:
        folder = Path(name)
        make_tokenizer(given.source, folder / "tokenizer")
        (folder / "tokenizer" / "config.json").write_text("{}")
        plain_rows = given.plain_rows or given.rows
        for line in _compare(folder, given.source, given.rows, plain_rows):
            print(line, flush=True)


def _compare(folder: Path, source: Path, rows: int, plain_rows: int) -> list[str]:
    few = rows // 4
    first = _ours(folder, source, few)
    ours = _ours(folder, source, rows)
    again = _ours(folder, source, rows)
    plain = _plain(folder, source, plain_rows)
    kept = sum(part["kept"] for part in ours.content["sets"])
    tokens = sum(part["tokens"]["total"] for part in ours.content["sets"])
    per_row = (ours.peak - first.peak) / (rows - few)
    speed, other = rows / ours.seconds, plain_rows / plain.seconds
    return [
        "| | rows | seconds | rows/s | kept | tokens | peak memory |",
        "|---|---|---|---|---|---|---|",
        _row("hpo data prepare", rows, ours, kept, tokens),
        _row("plain", plain_rows, plain, plain.content["kept"], plain.content["tokens"]),
        f"\n{speed / other:.1f} times as many rows per second; {per_row:.0f} bytes of memory per "
        f"row ({few} against {rows} rows); second start from the cache {again.seconds:.2f} s",
    ]


def _row(name: str, rows: int, run: Run, kept: int, tokens: int) -> str:
    return (
        f"| {name} | {rows} | {run.seconds:.1f} | {rows / run.seconds:.0f} | {kept} | {tokens} | "
        f"{run.peak / 2**20:.0f} MiB |"
    )


def _ours(folder: Path, source: Path, rows: int) -> Run:
    content = {
        "model": {"path": str(folder / "tokenizer")},
        "max_length": 1024,
        "data": {
            "train": {
                "path": str(_grown(folder, source, rows)),
                "prompt": "question",
                "completion": "answer",
            },
            "loss": {"fraction": FRACTION, "seed": SEED},
            "cleaning": CLEANING,
        },
    }
    study = folder / f"data-{rows}.yaml"
    study.write_text(yaml.dump(content))
    command = [sys.executable, "-m", "hpo", "data", "prepare", str(study), "--json"]
    return _timed(command, {"HPO_HOME": str(folder / "home")})


def _plain(folder: Path, source: Path, rows: int) -> Run:
    file = str(_grown(folder, source, rows))
    arguments = [file, str(folder / "tokenizer"), str(folder / "cache")]
    command = [sys.executable, "-m", "benchmarks.data.plain", *arguments]
    return _timed(command, {"HF_HOME": str(folder / "hub")})


def _grown(folder: Path, source: Path, rows: int) -> Path:
    file = folder / f"rows-{rows}.jsonl"
    if not file.exists():
        grow(source, file, rows)
    return file


def _timed(command: list[str], more: dict[str, str]) -> Run:
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **more})
    watch = _Peak(process.pid)
    watch.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    watch.join()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(seconds, watch.peak, json.loads(output.splitlines()[-1]))


class _Peak(threading.Thread):
    """Watches the resident memory of a process and its children until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self.peak = 0

    def run(self) -> None:
        """Look ten times a second."""
        with suppress(psutil.NoSuchProcess):
            while self._process.status() != psutil.STATUS_ZOMBIE:
                self.peak = max(self.peak, self._now())
                time.sleep(0.1)

    def _now(self) -> int:
        found = 0
        for one in (self._process, *self._process.children(recursive=True)):
            # A child may end meanwhile.
            with suppress(psutil.NoSuchProcess):
                found += one.memory_info().rss
        return found


if __name__ == "__main__":
    main()
