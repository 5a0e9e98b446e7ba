from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpo.spec.data import DataSpec
from hpo.spec.sources import EvaluationData, TrainData
from workers.data.tokens.tokenizer import load_tokenizer
from workers.tiny import make_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def tokenizer(model_folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(model_folder))


@pytest.fixture
def data() -> DataSpec:
    return DataSpec(train=TrainData(path="unread"), loss=EvaluationData(path="unread"))
