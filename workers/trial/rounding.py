"""Whole steps out of shares of them."""

from __future__ import annotations

import math


def rounded_up(steps: float) -> int:
    """0.07 x 100 is 7, though floating point makes it a little more."""
    return math.ceil(round(steps, 6))
