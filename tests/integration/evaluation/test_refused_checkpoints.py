"""What cannot be served is refused before it touches an engine; the next request scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_lab import EXAMPLES, Answers, Lab, answers, closing, texts_of, told
from safetensors.torch import load_file, save_file

from storage.checkpoints import Checkpoint, CheckpointError
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.engines.weights import NotFinite

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def engines(lab: Lab) -> Iterator[EvaluationEngines]:
    with closing(lab.engines(lora_rank=5)) as engines:
        yield engines


@pytest.fixture(scope="module")
def good(lab: Lab) -> Checkpoint:
    return lab.full(21)


@pytest.fixture(scope="module")
def wanted(engines: EvaluationEngines, good: Checkpoint) -> Answers:
    return told(engines, good)


def _missing_tensor(tensors: dict[str, Any]) -> None:
    del tensors[NORM]


def _extra_tensor(tensors: dict[str, Any]) -> None:
    tensors["model.extra.weight"] = torch.zeros(3)


def _wrong_shape(tensors: dict[str, Any]) -> None:
    tensors[QUERY] = torch.zeros(63, 64)


def _wrong_dtype(tensors: dict[str, Any]) -> None:
    tensors[NORM] = tensors[NORM].bfloat16()


def _nan(tensors: dict[str, Any]) -> None:
    tensors[QUERY][3, 5] = math.nan


def _infinite(tensors: dict[str, Any]) -> None:
    tensors[NORM][0] = -math.inf


def _untied(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (_missing_tensor, f"{NORM} is missing"),
        (_extra_tensor, "model.extra.weight is not in the base model"),
        (_wrong_shape, rf"{QUERY} is float32 \[63, 64\], not float32 \[64, 64\]"),
        (_wrong_dtype, rf"{NORM} is bfloat16 \[64\], not float32 \[64\]"),
        (_untied, "lm_head.weight differs from model.embed_tokens.weight"),
    ],
)
def test_misfit_is_refused(
    lab: Lab,
    engines: EvaluationEngines,
    good: Checkpoint,
    wanted: Answers,
    alter: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    _refused_then_right(engines, lab.altered("misfit", alter), message, good, wanted)


@pytest.mark.parametrize(
    ("alter", "message"),
    [(_nan, f"holds NaN in {QUERY}"), (_infinite, f"holds infinite values in {NORM}")],
)
def test_diverged_weights_are_refused_by_name(
    lab: Lab,
    engines: EvaluationEngines,
    good: Checkpoint,
    wanted: Answers,
    alter: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    with pytest.raises(NotFinite, match=message):
        engines.load_weights(lab.altered("diverged", alter))
    _refused_then_right(engines, lab.altered("diverged", alter), message, good, wanted)


@pytest.mark.parametrize("served", [True, False])
def test_diverged_adapter_is_refused_by_name(
    lab: Lab, engines: EvaluationEngines, good: Checkpoint, wanted: Answers, served: bool
) -> None:
    """One that vLLM serves, and one that is merged."""
    rank = 2 if served else 9
    checkpoint = lab.adapter("diverged-adapter", 1, r=rank, target_modules=["q_proj"])
    file = checkpoint.directory / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name][1, 1] = math.nan
    save_file(tensors, file)
    with pytest.raises(NotFinite, match=f"holds NaN in {name}"):
        engines.load_weights(checkpoint)
    _refused_then_right(engines, checkpoint, "it has diverged", good, wanted)


def test_missing_file_is_refused(
    lab: Lab, engines: EvaluationEngines, good: Checkpoint, wanted: Answers
) -> None:
    checkpoint = lab.altered("missing", lambda tensors: None)
    (checkpoint.directory / "model.safetensors").unlink()
    _refused_then_right(engines, checkpoint, "model.safetensors is missing", good, wanted)


def test_truncated_file_is_refused(
    lab: Lab, engines: EvaluationEngines, good: Checkpoint, wanted: Answers
) -> None:
    checkpoint = lab.altered("truncated", lambda tensors: None)
    file = checkpoint.directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    _refused_then_right(engines, checkpoint, "cannot be read", good, wanted)


def test_tied_output_layer_may_be_present(lab: Lab, engines: EvaluationEngines) -> None:
    def untie(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    base = told(engines, None)
    assert told(engines, lab.altered("with-head", untie)) == base


def test_adapter_that_differs_from_its_configuration_is_refused(
    lab: Lab, engines: EvaluationEngines, good: Checkpoint, wanted: Answers
) -> None:
    checkpoint = lab.adapter("differs", 1, r=2, target_modules=["q_proj"])
    file = checkpoint.directory / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"target_modules": ["q_proj", "v_proj"]}))
    _refused_then_right(engines, checkpoint, r"v_proj\.lora_A\.weight is missing", good, wanted)
    file.write_text(json.dumps(config | {"r": 4}))
    _refused_then_right(engines, checkpoint, r"lora_A\.weight is float32 \[2, 64\]", good, wanted)
    file.write_text(json.dumps(config | {"target_modules": ["nothing"]}))
    _refused_then_right(engines, checkpoint, "name no layer", good, wanted)
    file.write_text(json.dumps(config | {"peft_type": "IA3"}))
    _refused_then_right(engines, checkpoint, "of type IA3, not LORA", good, wanted)
    file.write_text(json.dumps(config | {"r": 0}))
    _refused_then_right(engines, checkpoint, "its rank is 0", good, wanted)
    file.write_text("[]")
    _refused_then_right(engines, checkpoint, "it is no mapping", good, wanted)
    file.unlink()
    _refused_then_right(engines, checkpoint, "adapter_config.json is missing", good, wanted)


def test_adapter_that_vllm_refuses_leaves_the_engine_alive(
    lab: Lab, engines: EvaluationEngines, good: Checkpoint, wanted: Answers, tmp_path: Path
) -> None:
    assert engines.generation is not None
    base = told(engines, None)
    engines.load_weights(None)
    too_large = lab.adapter("too-large", 1, r=9, target_modules=["q_proj"])
    for directory in (too_large.directory, tmp_path):
        with pytest.raises(CheckpointError, match="vLLM refused the adapter"):
            engines.generation.add_adapter(directory)
    assert texts_of(answers(engines)) == base.texts
    assert told(engines, good) == wanted


def test_nothing_is_scored_after_a_refusal(lab: Lab, engines: EvaluationEngines) -> None:
    with pytest.raises(CheckpointError):
        engines.load_weights(lab.altered("misfit", _missing_tensor))
    with pytest.raises(RuntimeError, match="call load_weights first"):
        answers(engines)
    with pytest.raises(RuntimeError, match="call load_weights first"):
        engines.loss(EXAMPLES, tokens_per_batch=64)


def _refused_then_right(
    engines: EvaluationEngines,
    bad: Checkpoint,
    message: str,
    good: Checkpoint,
    wanted: Answers,
) -> None:
    engine = engines.generation
    with pytest.raises(CheckpointError, match=message):
        engines.load_weights(bad)
    assert told(engines, good) == wanted
    assert engines.generation is engine
