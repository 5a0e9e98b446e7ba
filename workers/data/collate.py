"""Examples of uneven length as one padded batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workers.data.encode import EncodedExample

IGNORED = -100
"""Label of a position that is not counted (torch's default `ignore_index`)."""


@dataclass(frozen=True)
class Batch:
    """Right-padded examples, all tensors of shape (examples, longest length)."""

    input_ids: torch.Tensor
    """int64 token ids."""
    attention_mask: torch.Tensor
    """int64, 1 on tokens, 0 on padding."""
    labels: torch.Tensor
    """int64, the token itself where it is counted, -100 on prompt and padding."""
    counted: int
    """Counted tokens, known without asking the device."""


def collate(examples: Sequence[EncodedExample], *, pad_id: int, device: torch.device) -> Batch:
    """Pad examples on the right to the longest of them and move them to `device`."""
    shape = (len(examples), max(len(example.input_ids) for example in examples))
    input_ids = torch.full(shape, pad_id)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.tensor(example.input_ids)
        attention_mask[row, :length] = 1
        labels[row, example.prompt_length : length] = input_ids[row, example.prompt_length : length]
    return Batch(
        input_ids.to(device),
        attention_mask.to(device),
        labels.to(device),
        sum(example.counted for example in examples),
    )
