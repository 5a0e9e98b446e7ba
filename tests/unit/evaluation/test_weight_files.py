from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from storage.checkpoints import CheckpointError
from workers.evaluation.engines.weights import (
    INDEX,
    Layout,
    NotFinite,
    TensorType,
    read_tensors,
    verify_full,
)


class Tied(nn.Module):
    """Two names for one tensor, and a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3)
        self.outer = nn.Linear(2, 3, bias=False)
        self.outer.weight = self.inner.weight
        self.register_buffer("kept", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("computed", torch.zeros(1), persistent=False)


@pytest.fixture
def layout() -> Layout:
    return Layout.of(Tied())


def _write_shards(folder: Path) -> None:
    weight, bias = torch.arange(6.0).reshape(3, 2), torch.ones(3)
    save_file({"inner.weight": weight}, folder / "one.safetensors")
    save_file(
        {"inner.bias": bias, "kept": torch.ones(1, dtype=torch.int64)}, folder / "two.safetensors"
    )
    places = {
        "inner.weight": "one.safetensors",
        "inner.bias": "two.safetensors",
        "kept": "two.safetensors",
    }
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def test_layout_tells_tied_tensors(layout: Layout) -> None:
    assert set(layout.required) == {"inner.weight", "inner.bias", "kept"}
    assert layout.tied == {"outer.weight": "inner.weight"}


def test_shards_are_read(tmp_path: Path, layout: Layout) -> None:
    _write_shards(tmp_path)
    # A file that the index does not name is none of the checkpoint's weights.
    save_file({"state": torch.zeros(1)}, tmp_path / "optimizer.safetensors")
    files = verify_full(tmp_path, layout)
    assert files["inner.bias"] == files["kept"] == tmp_path / "two.safetensors"
    tensors = dict(read_tensors(files))
    assert tensors.keys() == layout.required.keys()
    assert tensors["inner.weight"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_missing_shard_is_refused(tmp_path: Path, layout: Layout) -> None:
    _write_shards(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"two\.safetensors is missing"):
        verify_full(tmp_path, layout)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_malformed_index_is_refused(tmp_path: Path, layout: Layout, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match="unreadable"):
        verify_full(tmp_path, layout)


def test_many_problems_are_summed_up(tmp_path: Path, layout: Layout) -> None:
    tensors = {f"extra.{number}": torch.zeros(1) for number in range(5)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"inner\.bias is missing; .*; and 5 more$"):
        verify_full(tmp_path, layout)


def _weights(**others: torch.Tensor) -> dict[str, torch.Tensor]:
    whole = {
        "inner.weight": torch.arange(6.0).reshape(3, 2),
        "inner.bias": torch.ones(3),
        "kept": torch.ones(1, dtype=torch.int64),
    }
    return whole | others


@pytest.mark.parametrize(
    ("value", "kind"),
    [(math.nan, "NaN"), (math.inf, "infinite values"), (-math.inf, "infinite values")],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values_must_be_finite(
    tmp_path: Path, layout: Layout, value: float, kind: str, dtype: str
) -> None:
    bias = torch.ones(3, dtype=getattr(torch, dtype))
    served = {**layout.required, "inner.bias": TensorType((3,), dtype)}
    save_file(_weights(**{"inner.bias": bias}), tmp_path / "model.safetensors")
    verify_full(tmp_path, Layout(served, layout.tied))
    bias[2] = value
    save_file(_weights(**{"inner.bias": bias}), tmp_path / "model.safetensors")
    with pytest.raises(NotFinite, match=rf"holds {kind} in inner\.bias: it has diverged"):
        verify_full(tmp_path, Layout(served, layout.tied))


def test_second_name_of_a_tied_tensor_must_hold_the_same(tmp_path: Path, layout: Layout) -> None:
    outer = _weights()["inner.weight"].clone()
    save_file(_weights(**{"outer.weight": outer}), tmp_path / "model.safetensors")
    assert "outer.weight" not in verify_full(tmp_path, layout)
    outer[0, 0] = 7
    save_file(_weights(**{"outer.weight": outer}), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"outer\.weight differs from inner\.weight"):
        verify_full(tmp_path, layout)
