"""How a device is shared where training and evaluation have only one."""

from __future__ import annotations

from typing import Literal

Sharing = Literal["auto", "turns", "shares"]


def takes_turns(sharing: Sharing, device: Literal["cpu", "cuda"]) -> bool:
    """Whether workers on such a device compute in turns rather than at once.

    A GPU's memory is what they would fight for; on a CPU there is enough of
    it, and both finish sooner side by side.
    """
    return sharing == "turns" or (sharing == "auto" and device == "cuda")
