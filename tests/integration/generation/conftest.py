from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from generation_lab import Ended, Generating, make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("generation-inputs"))


@pytest.fixture(scope="session")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generating, Ended]:
    """A run that nothing interrupted, and how it ended."""
    generating = Generating(inputs, tmp_path_factory.mktemp("whole"))
    return generating, generating.run()


@pytest.fixture
def generating(inputs: Path, tmp_path: Path) -> Iterator[Generating]:
    generating = Generating(inputs, tmp_path)
    yield generating
    generating.end_all()
