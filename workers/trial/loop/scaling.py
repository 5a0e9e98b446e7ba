"""Loss scaling for float16, whose small gradients would be lost (arXiv:1710.03740)."""

from __future__ import annotations

from typing import Any

LARGEST = 2.0**24
SMALLEST = 1.0
GROWTH_STEPS = 2000
"""Steps without an overflow after which the scale is doubled, as in torch's GradScaler."""


class LossScale:
    """The factor that the loss is multiplied by before the backward pass.

    A step that overflows is repeated with half the factor, not left out, so
    that a trial takes as many steps as it was given.
    """

    def __init__(self) -> None:
        self.value = 2.0**16
        self._steps = 0

    def shrink(self) -> bool:
        """Halve the factor after an overflow; False when it cannot go lower."""
        if self.value <= SMALLEST:
            return False
        self.value /= 2
        self._steps = 0
        return True

    def taken(self) -> None:
        """Note a step without an overflow."""
        self._steps += 1
        if self._steps >= GROWTH_STEPS:
            self.value = min(LARGEST, 2 * self.value)
            self._steps = 0

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"value": self.value, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.value, self._steps = state["value"], state["steps"]
