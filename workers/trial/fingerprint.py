"""A content hash of a model's weights, cheap enough to take after each trial."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 24
_PERIOD = 65521
"""Weights of the second sum repeat after so many elements (a prime)."""


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """Hash of names, types, shapes and bits of all parameters and buffers.

    Each tensor's bits are read as integers and summed twice modulo 2⁶⁴, once
    plainly and once weighted by position (as in Adler's checksum), on the
    tensor's own device; only the sums are copied. Integer sums do not depend
    on their order, so the hash is exact. One changed bit always shows, and so
    do swapped elements; it is no defence against intent.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    for sums in _on_host(_sums(tensor) for _, tensor in named):
        digest.update(repr(sums.tolist()).encode())
    return digest.hexdigest()


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """The two sums of a tensor as an int64 tensor of shape (2,)."""
    bits = tensor.detach().contiguous().view(-1).view(_BITS[tensor.element_size()])
    total = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start, start + len(part), device=tensor.device) % _PERIOD + 1
        total += torch.stack([part.sum(), (part * places).sum()])
    return total


def _on_host(sums: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Copy to the CPU with one transfer per device."""
    tensors = list(sums)
    if len({tensor.device for tensor in tensors}) > 1:
        return [tensor.cpu() for tensor in tensors]
    return list(torch.stack(tensors).cpu()) if tensors else []
