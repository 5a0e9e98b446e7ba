from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model

if TYPE_CHECKING:
    from workers.trial.model.reusable import ReusableModel


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def examples() -> list[EncodedExample]:
    """Uneven lengths; the end token is the last one."""
    draw = random.Random(0)
    return [
        EncodedExample.completion_only(
            (*(draw.randrange(256) for _ in range(draw.randint(4, 24))), 256), 3
        )
        for _ in range(40)
    ]


@pytest.fixture
def reusable(base: Path) -> ReusableModel:
    import torch

    from hpo.spec.study import ModelSpec
    from workers.trial.model.needs import ModelNeeds
    from workers.trial.model.reusable import ReusableModel

    return ReusableModel.load(
        ModelSpec(path=str(base), dtype="float32"),
        device=torch.device("cpu"),
        needs=ModelNeeds(frozenset({"full", "lora"})),
    )
