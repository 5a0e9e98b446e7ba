"""Inputs for whole studies, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.tiny import make_arithmetic, make_model


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and sums."""
    folder = tmp_path_factory.mktemp("inputs")
    make_model(folder / "model")
    make_arithmetic(folder / "data", largest=20)
    return folder
