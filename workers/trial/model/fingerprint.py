"""A content hash of a model's weights, cheap enough to take after each trial."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.functional import pad

_WORD = 8
"""Bytes that are summed as one number."""
_COLUMNS = 1024
"""Words of a row, when a tensor's content is laid out as a table."""


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """Hash of names, types, shapes and bits of all parameters and buffers.

    Each tensor's bits are read as words of 64 and summed modulo 2⁶⁴ on the
    tensor's own device: plainly, and weighted by position (as in Adler's
    checksum). Only the sums are copied. Integer sums do not depend on their
    order, so the hash is exact. One changed bit always shows, and so do
    swapped elements; it is no defence against intent. It takes about as long
    as a copy of the content: both sums are taken without converting a number.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    for sums in _on_host(_sums(tensor) for _, tensor in named):
        digest.update(repr(sums.tolist()).encode())
    return digest.hexdigest()


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """Sums of a tensor's words as an int64 tensor of shape (3,): plain, by column, by row."""
    words, rest = _words(tensor)
    whole = len(words) // _COLUMNS
    table = words[: whole * _COLUMNS].view(whole, _COLUMNS)
    columns, rows = table.sum(0), table.sum(1)
    rest = torch.cat([words[whole * _COLUMNS :], rest])
    columns[: len(rest)] += rest
    rows = torch.cat([rows, rest.sum(0, keepdim=True)])
    return torch.stack([columns.sum(), _weighted(columns), _weighted(rows)])


def _words(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor's content as int64, and what is left of it, filled up with zeros to a word."""
    content = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if content.storage_offset() % _WORD:
        content = content.clone()
    left = len(content) % _WORD
    whole = content[: len(content) - left].view(torch.int64)
    return whole, pad(content[len(content) - left :], (0, -left % _WORD)).view(torch.int64)


def _weighted(values: torch.Tensor) -> torch.Tensor:
    return (values * torch.arange(1, len(values) + 1, device=values.device)).sum()


def _on_host(sums: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Copy to the CPU with one transfer per device."""
    tensors = list(sums)
    if len({tensor.device for tensor in tensors}) > 1:
        return [tensor.cpu() for tensor in tensors]
    return list(torch.stack(tensors).cpu()) if tensors else []
