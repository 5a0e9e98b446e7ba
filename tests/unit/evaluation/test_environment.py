from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpo.spec.errors import DeviceError
from workers.evaluation.engines.environment import prepare_environment

SCRIPT = """
import json, os, sys
from workers.evaluation.engines.environment import prepare_environment
prepare_environment(*json.loads(sys.argv[1]))
print(json.dumps(dict(os.environ)))
"""


def _prepared(*arguments: str, **environment: str) -> dict[str, Any]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        env=kept | environment,
        capture_output=True,
        check=True,
    )
    prepared: dict[str, Any] = json.loads(done.stdout)
    return prepared


def test_cpu(tmp_path: Path) -> None:
    prepared = _prepared("cpu", str(tmp_path))
    assert prepared["OMP_NUM_THREADS"] == "1"
    assert prepared["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert prepared["HF_HUB_OFFLINE"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in prepared


def test_hub_model_stays_online() -> None:
    assert "HF_HUB_OFFLINE" not in _prepared("cpu", "Qwen/Qwen2.5-Math-1.5B")


@pytest.mark.parametrize(
    ("device", "given", "visible"),
    [
        ("cuda:1", {}, "1"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,6"}, "6"),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "4,6"}, "4"),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "4,6"}, "4,6"),
    ],
)
def test_one_gpu_is_visible(device: str, given: dict[str, str], visible: str) -> None:
    assert _prepared(device, **given)["CUDA_VISIBLE_DEVICES"] == visible


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with pytest.raises(DeviceError, match="cuda:2: this process was given GPUs 4,6"):
        prepare_environment("cuda:2")


def test_log_level_is_left_to_a_person() -> None:
    assert _prepared("cpu", VLLM_LOGGING_LEVEL="DEBUG")["VLLM_LOGGING_LEVEL"] == "DEBUG"
