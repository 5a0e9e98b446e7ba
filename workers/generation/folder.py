"""The output folder: what was written, by which settings, by one process at a time."""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hpo.spec.errors import OutputError
from hpo.spec.identity import differences
from workers.generation.journal import Journal, sync_folder, write_whole

RESPONSES, REFUSED = "responses.jsonl", "refused.jsonl"
REPORT, SETTINGS, LOCK = "report.json", "settings.json", ".lock"
LOCK_SECONDS = 5.0
"""How long a process that was just killed may take to let go of the folder."""


@dataclass
class Written:
    """What a folder holds already."""

    accepted: list[dict[str, Any]] = field(default_factory=list)
    """Records of generated responses, in the order of their acceptance."""
    human: set[str] = field(default_factory=set)
    """Ids of human responses."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    """Records of refused responses, without their texts."""
    cut: int = 0
    """Bytes of lines that a crash left incomplete."""


@dataclass
class OutputFolder:
    """The files of one run, over all of its interruptions."""

    path: Path
    responses: Journal
    refused: Journal

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Begin the folder with these settings, or go on if it was begun with them.

        A folder without a single record is begun anew. Raises OutputError
        with a line for each setting that differs, and for a folder that holds
        records of unknown settings.
        """
        file = self.path / SETTINGS
        if not file.exists() or not self._has_records():
            self._begin(file, settings)
        try:
            begun = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{file}: cannot be read ({error}); choose another output folder"
            ) from error
        # As JSON has it, which knows no tuples.
        changed = differences(begun, json.loads(json.dumps(settings)))
        if changed:
            raise OutputError("\n".join(self._refusal(changed)))

    def load(self) -> Written:
        """Read what is there, after cutting off what a crash left incomplete.

        Raises OutputError for files that something else wrote.
        """
        written = Written()
        seen: Counter[tuple[str, Any]] = Counter()
        for journal in (self.responses, self.refused):
            written.cut += journal.recover()
            for record in journal:
                self._require(record, journal.file, seen)
                _sort_in(record, journal is self.refused, written)
        return written

    def write_report(self, content: Mapping[str, Any]) -> None:
        """Write the report, whole."""
        write_whole(self.path / REPORT, content)

    def _begin(self, file: Path, settings: Mapping[str, Any]) -> None:
        if self._has_records():
            raise OutputError(
                f"{self.path}: given a folder with responses but without {SETTINGS}; "
                "allowed: a folder of this command, or an empty one"
            )
        write_whole(file, settings)

    def _has_records(self) -> bool:
        files = (self.responses.file, self.refused.file)
        return any(file.exists() and file.stat().st_size > 0 for file in files)

    def _refusal(self, changed: list[str]) -> Iterator[str]:
        for line in changed:
            yield f"{self.path} was begun with other settings: {line}"
        yield "allowed: the same settings and inputs, or another output folder"

    def _require(
        self, record: Mapping[str, Any], file: Path, seen: Counter[tuple[str, Any]]
    ) -> None:
        missing = {"id", "level", "source", "provenance"} - record.keys()
        if missing:
            raise OutputError(
                f"{file}: given a record without {', '.join(sorted(missing))}; "
                "allowed: the file as it was written"
            )
        key = (str(record["id"]), record["provenance"].get("attempt"))
        seen[key] += 1
        if seen[key] > 1:
            raise OutputError(
                f"{file}: given the response {key[0]} (attempt {key[1]}) twice; "
                "allowed: the file as it was written"
            )


def _sort_in(record: dict[str, Any], refused: bool, written: Written) -> None:
    if refused:
        # Their texts are not needed again.
        record.pop("completion", None)
        written.refused.append(record)
    elif record["source"] == "human":
        written.human.add(str(record["id"]))
    else:
        written.accepted.append(record)


@contextmanager
def open_folder(path: Path) -> Iterator[OutputFolder]:
    """The folder, made if it is missing, and kept from all other processes.

    The kernel lets go of it when this process dies. Raises OutputError when
    it cannot be written or another process has it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)
        lock = (path / LOCK).open("a")
    except OSError as error:
        in_the_way = isinstance(error, FileExistsError)
        reason = "a file stands where a folder must be" if in_the_way else error.strerror
        raise OutputError(
            f"the output folder {path} cannot be written: {reason}; choose another one"
        ) from error
    with lock:
        _lock(lock, path)
        yield OutputFolder(path, Journal(path / RESPONSES), Journal(path / REFUSED))


def _lock(lock: TextIO, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise OutputError(
                    f"{path}: another process writes to this folder; "
                    "wait for it, or choose another output folder"
                ) from None
            time.sleep(0.1)
