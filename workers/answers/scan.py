"""Searching a text for its last match."""

from __future__ import annotations

import re
from collections import deque


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last of the matches that follow each other from the beginning."""
    last = deque(pattern.finditer(text), maxlen=1)
    return last[0] if last else None
