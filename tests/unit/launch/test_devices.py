from __future__ import annotations

from pathlib import Path

import pytest

from hpo.launch.devices import gpu_index, gpu_names, trial_memory_fraction
from hpo.launch.inputs import check_device
from hpo.spec.errors import DeviceError
from hpo.spec.sharing import Sharing
from hpo.spec.study import EvaluationSpec, Every

SHOWN = """\
GPU-aaaa-1, NVIDIA A
GPU-bbbb-2, NVIDIA B
GPU-bbbb-3, NVIDIA C
"""


@pytest.fixture(autouse=True)
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f'#!/bin/sh\n[ "$1" = --query-gpu=uuid,name ] || exit 1\ncat <<END\n{SHOWN}END\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA A", "NVIDIA B", "NVIDIA C"]),
        ("", []),
        ("-1", []),
        ("1", ["NVIDIA B"]),
        ("2, 0", ["NVIDIA C", "NVIDIA A"]),
        ("GPU-bbbb-3,GPU-aaaa", ["NVIDIA C", "NVIDIA A"]),
        ("GPU-bbbb", []),
        ("GPU-cccc", []),
        ("2,-1,0", ["NVIDIA C"]),
        ("0,7,1", ["NVIDIA A"]),
        ("MIG-dddd", ["MIG-dddd"]),
    ],
)
def test_the_visible_gpus_are_counted_as_cuda_does(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_names() == names


def test_a_hidden_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    check_device("cuda:0", "--device")
    with pytest.raises(DeviceError, match=r"allowed: auto, cpu, cuda:0$"):
        check_device("cuda:1", "--device")


def test_auto_is_the_first_gpu_or_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (gpu_index("auto"), gpu_index("auto", last=True)) == (0, 2)
    assert (gpu_index("cuda"), gpu_index("cuda:1"), gpu_index("cpu")) == (0, 1, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_index("auto", last=True) is None


@pytest.mark.parametrize(
    ("trial", "evaluation", "fraction"),
    [
        ("auto", "auto", None),
        ("cuda:0", "cuda:1", None),
        ("cuda:2", "auto", 0.45),
        ("cuda", "cuda:0", 0.45),
        ("cpu", "cpu", None),
        ("cpu", "cuda:0", None),
    ],
)
def test_training_is_limited_where_both_use_a_gpu_at_once(
    trial: str, evaluation: str, fraction: float | None
) -> None:
    assert trial_memory_fraction(trial, evaluation, evaluations("shares")) == fraction
    assert trial_memory_fraction(trial, evaluation, evaluations("turns")) is None
    assert trial_memory_fraction(trial, evaluation, evaluations("auto")) is None


def evaluations(sharing: Sharing, fraction: float = 0.5) -> EvaluationSpec:
    every = Every(batches=1)
    return EvaluationSpec(every=every, sharing=sharing, gpu_memory_fraction=fraction)


def test_training_needs_something_of_a_shared_gpu() -> None:
    with pytest.raises(DeviceError, match=r"gpu_memory_fraction: given 0\.95, which leaves"):
        trial_memory_fraction("cuda:1", "cuda:1", evaluations("shares", 0.95))
    assert trial_memory_fraction("cuda:0", "cuda:1", evaluations("shares", 0.95)) is None
    assert trial_memory_fraction("cuda:1", "cuda:1", evaluations("turns", 0.95)) is None
