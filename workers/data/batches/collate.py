"""Examples of uneven length as one batch of tensors, one per row or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from workers.data.tokens.encoded import EncodedExample

IGNORED = -100
"""Label of a position that is not counted (torch's default `ignore_index`)."""


@dataclass(frozen=True)
class Batch:
    """Right-padded rows, all tensors of shape (rows, width).

    The width is that of the longest row, or more where a width was asked for.
    """

    input_ids: torch.Tensor
    """int64 token ids."""
    attention_mask: torch.Tensor | None
    """int64, 1 on tokens, 0 on padding; None where rows are packed."""
    labels: torch.Tensor
    """int64, the token itself where it is counted, -100 elsewhere."""
    weights: torch.Tensor
    """float32, the example's weight where a token is counted, 0 elsewhere."""
    counted: int
    """Counted tokens, known without asking the device."""
    weighted: float
    """Counted tokens, each times its example's weight."""
    documents: torch.Tensor
    """int64, which of `examples` a position belongs to, -1 on padding."""
    members: tuple[int, ...]
    """Ordinals of `examples` within the examples of the optimizer step."""
    examples: tuple[EncodedExample, ...]
    """Row after row, and from left to right."""
    position_ids: torch.Tensor | None = None
    """int64, from 0 on in each example of a packed row; None where rows are not."""


def collate(
    examples: Sequence[EncodedExample],
    *,
    pad_id: int,
    device: torch.device,
    members: Sequence[int] | None = None,
    width: int | None = None,
    pinned: bool = False,
) -> Batch:
    """Pad examples on the right, to the longest of them or to `width`, and move them to `device`.

    `members` are their ordinals within the optimizer step; without them, the
    examples are the whole step. `pinned` copies to a GPU from page-locked
    memory, without waiting. Raises ValueError where `width` is too small.
    """
    ordinals = range(len(examples)) if members is None else members
    rows = [[example] for example in examples]
    return _Rows(rows, ordinals, pad_id, width, packed=False).batch(device, pinned)


def collate_packed(
    examples: Sequence[EncodedExample],
    rows: Sequence[Sequence[int]],
    *,
    pad_id: int,
    device: torch.device,
    width: int | None = None,
    pinned: bool = False,
) -> Batch:
    """Put examples of an optimizer step side by side in rows, which hold their indices.

    Without an attention mask, transformers takes positions that restart for
    the beginning of another document, and lets none see another. Padding at
    the end of a row is a document of its own. `width` and `pinned` are as in
    `collate`.
    """
    chosen = [[examples[index] for index in row] for row in rows]
    ordinals = [index for row in rows for index in row]
    return _Rows(chosen, ordinals, pad_id, width, packed=True).batch(device, pinned)


class _Rows:
    """The arrays of a batch, filled document by document."""

    def __init__(
        self,
        rows: Sequence[Sequence[EncodedExample]],
        members: Sequence[int],
        pad_id: int,
        width: int | None,
        *,
        packed: bool,
    ) -> None:
        self._examples = tuple(example for row in rows for example in row)
        self._members = tuple(members)
        self._packed = packed
        longest = max(sum(example.length for example in row) for row in rows)
        if width is not None and width < longest:
            raise ValueError(f"width must be at least the longest row's {longest}, not {width}")
        shape = (len(rows), longest if width is None else width)
        # One array for all integers: it takes one copy to the device instead of four.
        self._integers = np.empty((4, *shape), np.int64)
        self._ids, self._labels, self._documents, self._places = self._integers
        self._weights = np.zeros(shape, np.float32)
        self._labels.fill(IGNORED)
        # What a document has in `places`: positions where rows are packed, else an open mask.
        self._numbers = np.arange(shape[1]) if packed else np.ones(shape[1], np.int64)
        document = 0
        for index, row in enumerate(rows):
            end = self._fill_row(index, row, document)
            self._ids[index, end:] = pad_id
            self._documents[index, end:] = -1
            self._places[index, end:] = self._numbers[: shape[1] - end] if packed else 0
            document += len(row)

    def _fill_row(self, row: int, examples: Sequence[EncodedExample], document: int) -> int:
        """Put examples side by side; where the last one ends."""
        start = 0
        for number, example in enumerate(examples, document):
            end = start + example.length
            self._ids[row, start:end] = example.tokens
            self._documents[row, start:end] = number
            self._places[row, start:end] = self._numbers[: end - start]
            for first, last in example.learned:
                # Nothing predicts the first token of a document, least of all the one before it.
                learned = slice(start + max(first, 1), start + max(last, 1))
                self._labels[row, learned] = self._ids[row, learned]
                self._weights[row, learned] = example.weight
            start = end
        return start

    def batch(self, device: torch.device, pinned: bool) -> Batch:
        """The arrays as tensors."""
        ids, labels, documents, places = _moved(self._integers, device, pinned)
        counts = [example.counted for example in self._examples]
        weights = [example.weight for example in self._examples]
        return Batch(
            input_ids=ids,
            attention_mask=None if self._packed else places,
            labels=labels,
            weights=_moved(self._weights, device, pinned),
            counted=sum(counts),
            weighted=sum(map(mul, weights, counts)),
            documents=documents,
            members=self._members,
            examples=self._examples,
            position_ids=places if self._packed else None,
        )


def _moved(array: npt.NDArray[Any], device: torch.device, pinned: bool) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)
