"""Examples on disk: lines of JSON and where each begins."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np
import numpy.typing as npt

from workers.data.example import Example
from workers.data.offsets import offsets_of

LINES, OFFSETS = "examples.jsonl", "offsets.npy"
Offsets = npt.NDArray[np.int64]


class StoredExamples(Sequence[Example]):
    """Examples that stay on disk and are read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._offsets: Offsets = np.load(folder / OFFSETS, mmap_mode="r")
        with (folder / LINES).open("rb") as file:
            # An empty file cannot be mapped.
            length = int(self._offsets[-1])
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if length else b""

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Example.from_line(self.line(range(len(self))[index]))

    def line(self, index: int) -> bytes:
        """An example as it is stored."""
        return self._lines[self._offsets[index] : self._offsets[index + 1]]

    def batches(self, indices: Sequence[int] | Offsets, size: int) -> Iterator[list[bytes]]:
        """The lines at some indices, `size` at a time."""
        for start in range(0, len(indices), size):
            yield [self.line(int(index)) for index in indices[start : start + size]]


class ExampleWriter:
    """Appends lines to a folder; at the end it writes where they begin."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = (folder / LINES).open("wb")
        self._lengths: list[npt.NDArray[np.int64]] = []

    def append(self, lines: Iterable[bytes]) -> None:
        """Add lines, each ending with a line break."""
        block = list(lines)
        self._file.write(b"".join(block))
        self._lengths.append(np.fromiter(map(len, block), np.int64, len(block)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            lengths = np.concatenate([np.empty(0, np.int64), *self._lengths])
            np.save(self._folder / OFFSETS, offsets_of(lengths))
