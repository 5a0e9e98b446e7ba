"""Where checkpoints lie: written whole or not at all, verified before use.

A checkpoint is a folder. Its payload is written into a hidden sibling, a
manifest with the size and SHA-256 of every file is written last, everything
is flushed, and one rename publishes the folder. A reader therefore sees a
complete checkpoint or none; `open` notices what was damaged later.

Sizes come from the manifests; a draft's is the one that was reserved for it,
which stands in its folder's name. Nothing else has to be read to know how
much is in use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpo.spec.errors import HpoError

MANIFEST = "checkpoint.json"
DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.(\d+)\.partial")
"""Name of a draft's folder, with the bytes that are reserved for it."""

Kind = Literal["full", "lora"]


class CheckpointError(HpoError):
    """A checkpoint is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint that was verified against its manifest."""

    directory: Path
    kind: Kind
    step: int
    """Optimizer steps that the weights have seen."""
    examples: int
    """Training examples that the weights have seen."""
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """Something below the root that takes room: a checkpoint, or a draft of one."""

    address: str
    """A draft's is that of its hidden folder."""
    bytes: int
    """As the manifest tells, or as was reserved."""
    written: float
    """Time of publication, in seconds since the epoch."""
    draft: bool


class Draft:
    """A checkpoint that is being written, which nobody sees before it is published.

    The payload goes into `directory`. It may be filled by one thread and
    published by another.
    """

    def __init__(self, target: Path, reserved: int) -> None:
        self._target = target
        self.directory = target.parent / f".{target.name}.{uuid.uuid4().hex}.{reserved}.partial"
        self.directory.mkdir(parents=True)

    def publish(
        self, *, kind: Kind, step: int, examples: int, metadata: dict[str, Any] | None = None
    ) -> None:
        """Flush the payload, write the manifest, and put the checkpoint in its place.

        An older checkpoint at the same address is replaced.
        """
        content = {
            "kind": kind,
            "step": step,
            "examples": examples,
            "metadata": metadata or {},
            "files": {file.name: _describe(file) for file in sorted(self.directory.iterdir())},
        }
        _write_flushed(self.directory / MANIFEST, json.dumps(content, indent=1).encode())
        _publish(self.directory, self._target)

    def discard(self) -> None:
        """Remove what was written; without effect on a published checkpoint."""
        shutil.rmtree(self.directory, ignore_errors=True)


class CheckpointStore:
    """Checkpoints below one root folder, addressed by relative paths."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, address: str) -> Path:
        """Folder of an address, which must lie below the root."""
        path = (self.root / address).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise CheckpointError(f"checkpoint address {address!r} leads out of {self.root}")
        return path

    def write(
        self,
        address: str,
        fill: Callable[[Path], None],
        *,
        kind: Kind,
        step: int,
        examples: int,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Have `fill` write the payload into a folder, then publish it.

        An older checkpoint at the same address is replaced. Returns the
        address.
        """
        draft = self.draft(address)
        try:
            fill(draft.directory)
            draft.publish(kind=kind, step=step, examples=examples, metadata=metadata)
        except BaseException:
            draft.discard()
            raise
        return address

    def draft(self, address: str, reserved: int = 0) -> Draft:
        """Begin a checkpoint; `reserved` are the bytes that it will take."""
        return Draft(self.path(address), reserved)

    def open(self, address: str) -> Checkpoint:
        """Verify a checkpoint, every byte of it, and describe it.

        Raises CheckpointError when it is missing, incomplete or damaged.
        """
        directory = self.path(address)
        content = _read_manifest(directory)
        for name, wanted in content["files"].items():
            _verify(directory / name, wanted)
        return Checkpoint(
            directory, content["kind"], content["step"], content["examples"], content["metadata"]
        )

    def exists(self, address: str) -> bool:
        """Whether a published checkpoint lies there; its files are not read."""
        return (self.path(address) / MANIFEST).is_file()

    def addresses(self) -> list[str]:
        """Every published checkpoint below the root."""
        return sorted(stored.address for stored in self.stored() if not stored.draft)

    def stored(self) -> list[Stored]:
        """Everything below the root that takes room, the oldest first.

        What others publish or remove meanwhile is there or not.
        """
        return sorted(self._stored(), key=lambda stored: (stored.written, stored.address))

    def _stored(self) -> Iterator[Stored]:
        for parent, folders, files in os.walk(self.root):
            folder = Path(parent)
            address = str(folder.relative_to(self.root))
            draft = DRAFT.fullmatch(folder.name)
            if draft is None and (folder.name.startswith(".") or MANIFEST not in files):
                continue
            folders.clear()
            try:
                written = (folder / (MANIFEST if draft is None else ".")).stat().st_mtime
                size = _size(folder) if draft is None else int(draft[1])
            except (FileNotFoundError, CheckpointError):
                # Removed meanwhile, or damaged: `open` says so to whoever needs it.
                continue
            yield Stored(address, size, written, draft is not None)

    def folders(self) -> list[str]:
        """Names of the folders right below the root, one per trial."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir())

    def keep_only(self, folder: str, addresses: Collection[str]) -> None:
        """Remove all of a folder but these checkpoints, half-written ones too."""
        kept = [self.path(address) for address in addresses]
        for path in sorted(self.path(folder).rglob("*"), reverse=True):
            inside = any(path.is_relative_to(keep) or keep.is_relative_to(path) for keep in kept)
            if path.is_dir() and not inside:
                shutil.rmtree(path, ignore_errors=True)
        if not any(keep.is_relative_to(self.path(folder)) for keep in kept):
            self.delete(folder)

    def delete(self, address: str) -> None:
        """Remove a checkpoint, or whatever folder lies at the address."""
        shutil.rmtree(self.path(address), ignore_errors=True)


def _read_manifest(directory: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"no complete checkpoint in {directory}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"unreadable {directory / MANIFEST}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise CheckpointError(f"unreadable {directory / MANIFEST}: it names no files")
    return dict(content)


def _size(directory: Path) -> int:
    files = _read_manifest(directory)["files"].values()
    return sum(file["bytes"] for file in files)


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest}


def _verify(file: Path, wanted: dict[str, Any]) -> None:
    if not file.is_file():
        raise CheckpointError(f"checkpoint file {file} is missing")
    size = file.stat().st_size
    if size != wanted["bytes"]:
        raise CheckpointError(f"checkpoint file {file} has {size} bytes, not {wanted['bytes']}")
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != wanted["sha256"]:
            raise CheckpointError(f"checkpoint file {file} is damaged: its checksum differs")


def _write_flushed(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _publish(partial: Path, target: Path) -> None:
    if target.exists():
        # A folder cannot be renamed over a full one; the old copy goes last.
        stale = target.parent / f".{target.name}.{uuid.uuid4().hex}.stale"
        target.rename(stale)
        partial.rename(target)
        shutil.rmtree(stale, ignore_errors=True)
    else:
        partial.rename(target)
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
