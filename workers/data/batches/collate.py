"""Examples of uneven length as one batch of tensors, one per row or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.data.tokens.encoded import EncodedExample

IGNORED = -100
"""Label of a position that is not counted (torch's default `ignore_index`)."""


@dataclass(frozen=True)
class Batch:
    """Right-padded rows, all tensors of shape (rows, longest row)."""

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
    position_ids: torch.Tensor | None = None
    """int64, from 0 on in each example of a packed row; None where rows are not."""


def collate(examples: Sequence[EncodedExample], *, pad_id: int, device: torch.device) -> Batch:
    """Pad examples on the right to the longest of them and move them to `device`."""
    return _Rows([[example] for example in examples], pad_id).batch(device, packed=False)


def collate_packed(
    examples: Sequence[EncodedExample],
    rows: Sequence[Sequence[int]],
    *,
    pad_id: int,
    device: torch.device,
) -> Batch:
    """Put examples side by side in rows, which hold their indices.

    Without an attention mask, transformers takes positions that restart for
    the beginning of another document, and lets none see another. Padding at
    the end of a row is a document of its own.
    """
    chosen = [[examples[index] for index in row] for row in rows]
    return _Rows(chosen, pad_id).batch(device, packed=True)


class _Rows:
    """The arrays of a batch, filled document by document."""

    def __init__(self, rows: Sequence[Sequence[EncodedExample]], pad_id: int) -> None:
        self._documents = [example for row in rows for example in row]
        lengths = [sum(len(example.input_ids) for example in row) for row in rows]
        shape = (len(rows), max(lengths))
        self._input_ids = np.full(shape, pad_id, np.int64)
        self._labels = np.full(shape, IGNORED, np.int64)
        self._weights = np.zeros(shape, np.float32)
        self._positions = np.zeros(shape, np.int64)
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = 0
            for example in row:
                self._fill(index, start, example)
                start += len(example.input_ids)
            self._positions[index, length:] = np.arange(shape[1] - length)
        self._tokens = np.arange(shape[1]) < np.array(lengths)[:, None]

    def _fill(self, row: int, start: int, example: EncodedExample) -> None:
        length = len(example.input_ids)
        ids = self._input_ids[row, start : start + length]
        ids[:] = example.input_ids
        self._positions[row, start : start + length] = np.arange(length)
        for first, last in example.learned:
            # Nothing predicts the first token of a document, least of all the one before it.
            learned = slice(start + max(first, 1), start + max(last, 1))
            self._labels[row, learned] = self._input_ids[row, learned]
            self._weights[row, learned] = example.weight

    def batch(self, device: torch.device, *, packed: bool) -> Batch:
        """The arrays as tensors."""
        mask = None if packed else torch.from_numpy(self._tokens.astype(np.int64)).to(device)
        positions = torch.from_numpy(self._positions).to(device) if packed else None
        return Batch(
            input_ids=torch.from_numpy(self._input_ids).to(device),
            attention_mask=mask,
            labels=torch.from_numpy(self._labels).to(device),
            weights=torch.from_numpy(self._weights).to(device),
            counted=sum(example.counted for example in self._documents),
            weighted=sum(example.weight * example.counted for example in self._documents),
            position_ids=positions,
        )
