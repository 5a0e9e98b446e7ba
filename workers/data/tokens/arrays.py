"""Many examples as a few flat arrays, in memory and in files."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedArrays:
    """Many examples end to end."""

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    """Token ids of all examples."""
    offsets: Integers
    """Where in `tokens` each example begins, and where the last one ends."""
    spans: npt.NDArray[np.int32]
    """Learned spans of all examples, (spans, 2), counted from the example's start."""
    span_offsets: Integers
    """Where in `spans` each example's begin, and where the last one's end."""
    weights: npt.NDArray[np.float32]
    """One per example."""

    @staticmethod
    def load(folder: Path) -> EncodedArrays:
        """Map the arrays of a folder, each in a `.npy` file of its name."""
        names = (field.name for field in fields(EncodedArrays))
        return EncodedArrays(*(load_array(folder / f"{name}.npy") for name in names))


class GrowingArray:
    """A `.npy` file that grows along its first axis and is complete when closed."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, columns: int | None = None) -> None:
        self._dtype = np.dtype(dtype)
        self._columns = columns
        self._rows = 0
        self._file = path.open("wb")
        self._header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows, converted to the file's type."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(rows)

    def close(self) -> None:
        """Write how many rows there are."""
        # numpy pads headers so that the first axis can grow in place.
        self._file.seek(0)
        self._header()
        self._file.close()

    def _header(self) -> None:
        shape = (self._rows,) if self._columns is None else (self._rows, self._columns)
        content = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, content)  # type: ignore[no-untyped-call]


def load_array(path: Path) -> npt.NDArray[Any]:
    """Map an array that `GrowingArray` wrote, for reading."""
    # As a plain array: numpy's memmap takes several times as long for every slice.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def token_type(vocabulary: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The smaller of two types that hold every id of a vocabulary."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def ranges(starts: Integers, lengths: Integers) -> Integers:
    """The numbers from each start on, as many as its length, end to end."""
    before = np.cumsum(lengths) - lengths
    numbers: Integers = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    return numbers
