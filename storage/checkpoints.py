"""Where checkpoints lie: written whole or not at all, verified before use.

A checkpoint is a folder. Its payload is written into a hidden sibling, a
manifest with the size and SHA-256 of every file is written last, everything
is flushed, and one rename publishes the folder. A reader therefore sees a
complete checkpoint or none; `open` notices what was damaged later.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpo.spec.errors import HpoError

MANIFEST = "checkpoint.json"

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
        target = self.path(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
        partial.mkdir()
        try:
            fill(partial)
            content = {
                "kind": kind,
                "step": step,
                "examples": examples,
                "metadata": metadata or {},
                "files": {file.name: _describe(file) for file in sorted(partial.iterdir())},
            }
            _write_flushed(partial / MANIFEST, json.dumps(content, indent=1).encode())
            _publish(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return address

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
        manifests = self.root.rglob(MANIFEST)
        return sorted(str(manifest.parent.relative_to(self.root)) for manifest in manifests)

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
        content: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"no complete checkpoint in {directory}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"unreadable {directory / MANIFEST}: {error}") from error
    return content


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
