"""Inputs made once; a study in a fresh database per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_lab import Lab, make_inputs

from storage.database import Database


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def make_lab(database: Database, inputs: Path, tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    labs: list[Lab] = []

    def make(**options: Any) -> Lab:
        lab = Lab.create(database, inputs, tmp_path, **options)
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        lab.kill_all()
