from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from study_text import BATCH, LEARNING_RATE, MINIMAL, edited, parsed

from hpo.spec.errors import InputError
from hpo.spec.identity import absolute_inputs, differences, fingerprint, identity
from hpo.spec.study import StudySpec


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with a model and data."""
    folder = tmp_path / "inputs"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "config.json").write_text("{}")
    (folder / "train.jsonl").write_text("{}\n")
    (folder / "valid.jsonl").write_text("{}\n\n")
    return folder


def study(folder: Path, text: str = MINIMAL) -> StudySpec:
    """The study over a folder's inputs."""
    for name in ("base", "train.jsonl", "valid.jsonl"):
        text = edited(f"path: {name}", f"path: {folder / name}", text)
    return parsed(text)


def test_the_same_file_is_the_same_study(inputs: Path) -> None:
    assert identity(study(inputs)) == identity(study(inputs))


def test_an_identity_survives_the_database(inputs: Path) -> None:
    mine = identity(study(inputs))
    assert json.loads(json.dumps(mine)) == mine


def test_a_moved_folder_is_the_same_study(inputs: Path, tmp_path: Path) -> None:
    before = identity(study(inputs))
    moved = shutil.move(inputs, tmp_path / "elsewhere")
    assert identity(study(Path(moved))) == before


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("train.jsonl", "data.train.path"),
        ("valid.jsonl", "data.loss.path"),
        ("base/config.json", "model.path"),
    ],
)
def test_an_edited_input_is_another_study(inputs: Path, file: str, field: str) -> None:
    before = identity(study(inputs))
    (inputs / file).write_text("changed")
    [line] = differences(before, identity(study(inputs)))
    assert line.startswith(f"{field}: is 'sha256:")


def test_a_file_more_in_the_model_is_another_model(inputs: Path) -> None:
    before = fingerprint(str(inputs / "base"))
    (inputs / "base" / "more.json").write_text("{}")
    assert fingerprint(str(inputs / "base")) != before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens unread")
def test_a_file_that_cannot_be_read_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"^/proc/self/mem: given a file that cannot be read"):
        fingerprint("/proc/self/mem")


def test_a_hub_name_stands_for_itself() -> None:
    assert fingerprint("Qwen/Qwen2.5-Math-1.5B") == "Qwen/Qwen2.5-Math-1.5B"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 2", "trials: 200"),
        ("budget:", "devices: {trial: cpu, evaluation: cuda:1}\nbudget:"),
        ("budget:", "tracking: {wandb: {project: p}}\nbudget:"),
        ("budget:", "checkpoints: {keep: all}\nbudget:"),
        ("{every: {batches: 5}}", "{every: {batches: 5}, max_num_seqs: 4, kv_cache_mib: 9}"),
    ],
)
def test_what_changes_no_value_is_free(old: str, new: str) -> None:
    assert identity(parsed(edited(old, new))) == identity(parsed(MINIMAL))


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (
            LEARNING_RATE,
            "learning_rate: 1e-3",
            ["training.optimizer.learning_rate: is 0.0001, given 0.001"],
        ),
        (
            BATCH,
            "effective_batch_size: {choices: [8]}",
            ["training.effective_batch_size: is 8, given {'choices': [8]}"],
        ),
        (
            "{batches: 5}",
            "{batches: 6}",
            ["evaluation.every.batches: is 5, given 6", "pruner.min_resource: is 40, given 48"],
        ),
        (
            "path: base",
            "path: base, dtype: float32",
            ["model.dtype: is 'bfloat16', given 'float32'"],
        ),
        ("budget:", "sampler: {type: tpe, seed: 1}\nbudget:", ["sampler.seed: is 0, given 1"]),
        (
            BATCH,
            f"{BATCH}\n  method: {{type: full}}",
            ["training.method: is None, given {'type': 'full'}"],
        ),
    ],
)
def test_what_changes_values_is_frozen(old: str, new: str, lines: list[str]) -> None:
    found = differences(identity(parsed(MINIMAL)), identity(parsed(edited(old, new))))
    assert found == lines


def test_a_changed_range_is_one_difference() -> None:
    narrow = edited(LEARNING_RATE, "learning_rate: {low: 1e-5, high: 1e-4}")
    wide = edited(LEARNING_RATE, "learning_rate: {low: 1e-5, high: 1e-3}")
    method = edited(BATCH, f"{BATCH}\n  method: {{type: full}}")
    choice = edited(BATCH, f"{BATCH}\n  method: {{choices: [{{type: full}}, {{type: lora}}]}}")
    assert differences(identity(parsed(narrow)), identity(parsed(wide))) == [
        "training.optimizer.learning_rate: is {'low': 1e-05, 'high': 0.0001}, "
        "given {'low': 1e-05, 'high': 0.001}"
    ]
    assert differences(identity(parsed(method)), identity(parsed(choice))) == [
        "training.method: is {'type': 'full'}, "
        "given {'choices': [{'type': 'full'}, {'type': 'lora'}]}"
    ]


def test_inputs_become_absolute(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    spec = parsed(edited("path: valid.jsonl", "path: user/set"))
    absolute = absolute_inputs(spec)
    assert absolute.model.path == str(inputs.resolve() / "base")
    assert absolute.data.train.path == str(inputs.resolve() / "train.jsonl")
    assert absolute.data.loss.path == "user/set"
    assert identity(absolute) == identity(spec)
