from __future__ import annotations

from pathlib import Path

import pytest

from hpo.spec.data_file import DataFile, load_data
from hpo.spec.errors import SpecError
from hpo.spec.study import StudySpec

DATA = "data:\n  train: {path: a.jsonl}\n  loss: {fraction: 0.1}\n"
STUDY = f"""\
name: whole
objective: {{metric: loss, direction: minimize}}
model: {{path: user/model}}
{DATA}training: {{optimizer: {{learning_rate: 1e-4}}, effective_batch_size: 8, max_batches: 9}}
evaluation: {{every: {{batches: 3}}}}
budget: {{trials: 1}}
"""


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    return str(file)


def test_a_data_section_is_enough(tmp_path: Path) -> None:
    spec = load_data(write(tmp_path, DATA), {})
    assert isinstance(spec, DataFile)
    assert (spec.model, spec.max_length, spec.data.loss.fraction) == (None, None, 0.1)


def test_a_study_file_is_read_as_one(tmp_path: Path) -> None:
    assert isinstance(load_data(write(tmp_path, STUDY), {}), StudySpec)


def test_half_a_study_is_told_as_a_study(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="name: given nothing"):
        load_data(write(tmp_path, DATA + "budget: {trials: 3}\n"), {})


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("max_length: 64\n", "max_length"),
        ("  cleaning: {max_tokens: 9}\n", "data.cleaning.max_tokens"),
        ("  max_prompt_tokens: 9\n", "data.max_prompt_tokens"),
    ],
)
def test_a_limit_in_tokens_needs_a_tokenizer(tmp_path: Path, more: str, named: str) -> None:
    with pytest.raises(SpecError, match=f"model: given nothing; allowed: .*{named} need"):
        load_data(write(tmp_path, DATA + more), {})
    assert load_data(write(tmp_path, DATA + more + "model: {path: user/model}\n"), {})
