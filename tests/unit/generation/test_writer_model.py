"""Which model it is: a local folder by its content, a hub name by its commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.spec.errors import InputError
from hpo.spec.generate import Writer
from workers.generation.model import LocalModel, context_length, find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub's cache with one model, as a download leaves it."""
    model = tmp_path / "models--someone--writer"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return tmp_path


def test_a_hub_name_is_known_by_its_commit(cache: Path) -> None:
    # Whether the hub may be asked is decided when its library is imported.
    code = (
        "from hpo.spec.generate import Writer; from workers.generation.model import find_model\n"
        "found = find_model(Writer(path='someone/writer'))\n"
        "print(found.name, found.folder, found.content)"
    )
    offline = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = cache / "models--someone--writer" / "snapshots" / COMMIT
    assert shown.stdout.split() == ["someone/writer", str(folder), COMMIT]


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = find_model(Writer(path=str(tmp_path)))
    assert before.folder == tmp_path
    (tmp_path / "model.safetensors").write_text("weights")
    assert find_model(Writer(path=str(tmp_path))).content != before.content


@pytest.mark.parametrize("path", ["/no/such/folder", "no such name", "a/b/c"])
def test_what_is_not_there_is_told(path: str) -> None:
    with pytest.raises(InputError, match=rf"model\.path: given '{path}', which is not there"):
        find_model(Writer(path=path))


def test_the_context_is_that_of_the_configuration(tmp_path: Path) -> None:
    model = LocalModel("writer", tmp_path, "sha256:0")
    config = {"model_type": "qwen2", "max_position_embeddings": 77}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(model) == 77
    (tmp_path / "config.json").write_text('{"model_type": "nothing known"}')
    with pytest.raises(InputError, match=r"model\.path: given 'writer'"):
        context_length(model)
