"""AdamW of bitsandbytes, whose moments have 8 bits or are paged to host memory.

This module needs the package; `build` imports it only where it is asked for.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.optim.optimizer import Optimizer2State

from workers.trial.optimizer.groups import Group

PAGED_ELEMENTS = 100_000
"""Moments of fewer elements are not worth a page table's trouble, as in bitsandbytes."""
BITS = "bits"
"""Key of a group's bits per moment, 8 or 32."""


class BitsAndBytesAdamW(Optimizer2State):  # type: ignore[misc]
    """AdamW with moments of 8 or 32 bits, group by group, paged or not.

    Three things differ from the package's own classes. The bits are in the
    group, not in the package's process-wide manager, where they would outlive
    the trial. Paged memory is freed with the moments that lie in it; the
    package never frees it. Moments that are loaded are paged again, where the
    package leaves them on the device.
    """

    def __init__(
        self, groups: Iterable[Group], *, betas: tuple[float, float], eps: float, paged: bool
    ) -> None:
        super().__init__("adam", groups, betas=betas, eps=eps, is_paged=paged)

    def get_config(self, gindex: int, pindex: int, group: Group) -> dict[str, Any]:
        """Options of one parameter's step, as bitsandbytes asks for them."""
        return {**super().get_config(gindex, pindex, group), "optim_bits": group[BITS]}

    def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A new moment of the shape of `p`, all zero."""
        if self.is_paged and p.is_cuda and p.numel() >= PAGED_ELEMENTS:
            return _paged(p.shape, dtype, p.device)
        return torch.zeros_like(p, dtype=dtype)

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        """Go on from what `state_dict` gave, each moment where a new one would be."""
        super().load_state_dict(state_dict, move_to_device=False)
        for parameter, state in self.state.items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[key] = self._placed(parameter, key, value)

    def _placed(self, parameter: torch.Tensor, key: str, value: torch.Tensor) -> torch.Tensor:
        if key not in ("state1", "state2"):
            return value.to(parameter.device)
        return self.get_state_buffer(parameter, value.dtype).copy_(value)


def _paged(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Managed memory, which the driver moves between device and host, all zero.

    torch takes it for host memory.
    """
    buffer: torch.Tensor = functional.get_paged(*shape, dtype=dtype, device=device)
    weakref.finalize(buffer, _free, buffer.data_ptr()).atexit = False
    functional.fill(buffer, 0)
    return buffer


def _free(address: int) -> None:
    """Free managed memory through the CUDA runtime that bitsandbytes is linked with."""
    error = functional.lib.cudaFree(ctypes.c_void_p(address))
    if error:
        raise RuntimeError(f"cudaFree of a paged moment: CUDA error {error}")
