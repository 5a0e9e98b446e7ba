"""A content hash of a model's weights, cheap enough to take after each trial."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_COLUMNS = 1024
"""Elements of a row, when a tensor's content is laid out as a table."""


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """Hash of names, types, shapes and bits of all parameters and buffers.

    Each tensor's bits are read as integers and summed modulo 2⁶⁴ on the
    tensor's own device: plainly, and weighted by position (as in Adler's
    checksum). Only the sums are copied. Integer sums do not depend on their
    order, so the hash is exact. One changed bit always shows, and so do
    swapped elements; it is no defence against intent.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    for sums in _on_host(_sums(tensor) for _, tensor in named):
        digest.update(repr(sums.tolist()).encode())
    return digest.hexdigest()


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """Sums of a tensor's bits as an int64 tensor of shape (3,): plain, by column, by row.

    Weights of whole columns and rows need no copy of the content as int64.
    """
    bits = tensor.detach().contiguous().view(-1).view(_BITS[tensor.element_size()])
    whole = len(bits) // _COLUMNS
    table, rest = bits[: whole * _COLUMNS].view(whole, _COLUMNS), bits[whole * _COLUMNS :]
    columns = table.sum(0, dtype=torch.int64)
    columns[: len(rest)] += rest
    rows = torch.cat(
        [table.sum(1, dtype=torch.int64), rest.sum(0, keepdim=True, dtype=torch.int64)]
    )
    return torch.stack([columns.sum(), _weighted(columns), _weighted(rows)])


def _weighted(values: torch.Tensor) -> torch.Tensor:
    return (values * torch.arange(1, len(values) + 1, device=values.device)).sum()


def _on_host(sums: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Copy to the CPU with one transfer per device."""
    tensors = list(sums)
    if len({tensor.device for tensor in tensors}) > 1:
        return [tensor.cpu() for tensor in tensors]
    return list(torch.stack(tensors).cpu()) if tensors else []
