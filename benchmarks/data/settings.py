"""What both ways do."""

from __future__ import annotations

from typing import Any

CLEANING: dict[str, Any] = {
    "min_characters": 30,
    "max_characters": 4096,
    "near_duplicates": {"threshold": 0.8, "words": 5, "permutations": 128},
}
FRACTION = 0.05
SEED = 42
