from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from study_text import edited, refused

from hpo.spec.load import ladder_of, load_study, parse_study, preset_names, study_text
from hpo.spec.space import Choices, Draw, Parameter, Scalar, SearchSpace
from hpo.spec.study import AshaPruner, EarlyStopping, StudySpec, TpeSampler
from hpo.spec.training.method import FullMethod, LoraMethod

VARIABLES = {"HPO_HOME": "/home", "GSM8K": "/gsm8k"}
PUBLISHED = """\
name: math-sft-asha
objective: {metric: loss, direction: minimize}        # or accuracy, maximize
model: {path: Qwen/Qwen2.5-Math-1.5B, dtype: bfloat16}
data:
  train: {path: data/math/train.jsonl, prompt: problem, completion: solution}
  loss: {path: data/math/valid.jsonl, samples: 500}
  generation: {path: data/math/valid.jsonl, samples: 500, task: math}
training:
  method: {type: full}
  optimizer:
    type: adamw
    learning_rate: {low: 5.0e-6, high: 1.0e-4, log: true}
    weight_decay: {low: 0.0, high: 0.1}
  effective_batch_size: {choices: [32, 64, 128, 256]}
  schedule: {type: linear, warmup_steps: 50}
  max_batches: 50000
evaluation: {every: {batches: 1000}, early_stopping: {patience: 3, min_delta: 0.001}}
sampler: {type: tpe, seed: 42}
pruner: {type: asha, reduction_factor: 3}
budget: {trials: 20}
"""


def corners(space: SearchSpace) -> Iterator[Draw]:
    """Draws for each end of each parameter while the others stand at an end."""
    for parameter in space.parameters():
        for value in _ends(parameter):
            for other in (0, -1):
                yield partial(_corner, parameter.name, value, other)


def _corner(name: str, value: Scalar, other: int, asked: Parameter) -> Scalar:
    return value if asked.name == name else _ends(asked)[other]


def _ends(parameter: Parameter) -> tuple[Scalar, ...]:
    node = parameter.node
    return node.labels if isinstance(node, Choices) else (node.low, node.high)


def test_presets_are_listed() -> None:
    assert preset_names() == ["gsm8k-tiny", "math-sft-asha", "quickstart"]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_at_every_corner(name: str) -> None:
    spec = load_study(name, VARIABLES)
    assert spec.name == name
    assert ladder_of(spec) is not None
    space = SearchSpace.of(spec.training)
    configs = [space.resolve(draw) for draw in corners(space)]
    assert len(configs) >= 2 * len(space.parameters()) >= 6


def test_a_preset_is_named_in_its_problems() -> None:
    text, shown = study_text("gsm8k-tiny")
    assert shown == "preset gsm8k-tiny"
    assert "${GSM8K}" in text


def test_the_published_study_parses_as_it_is_printed() -> None:
    spec = parse_study(PUBLISHED, "study.yaml", {})
    assert spec.data.generation is not None
    assert (spec.data.train.prompt, spec.data.generation.task.type) == ("problem", "math")
    assert spec.evaluation.early_stopping == EarlyStopping(patience=3, min_delta=0.001)
    assert spec.sampler == TpeSampler(seed=42)
    assert spec.pruner == AshaPruner(reduction_factor=3, min_resource=32_000)
    assert _space(spec) == {
        "optimizer.learning_rate": (5e-6, 1e-4),
        "optimizer.weight_decay": (0.0, 0.1),
        "effective_batch_size": (32, 64, 128, 256),
    }
    assert SearchSpace.of(spec.training).resolve(lambda p: _ends(p)[0]).method == FullMethod()


def test_the_published_study_ships_as_a_preset() -> None:
    assert load_study("math-sft-asha", {}) == parse_study(PUBLISHED, "study.yaml", {})


def test_the_published_study_with_lora() -> None:
    lora = "{type: lora, rank: 32, alpha: 64, dropout: 0.1, target_modules: [q_proj, v_proj]}"
    spec = parse_study(edited("{type: full}", lora, PUBLISHED), "study.yaml", {})
    config = SearchSpace.of(spec.training).resolve(lambda p: _ends(p)[-1])
    assert config.method == LoraMethod(
        type="lora", rank=32, alpha=64.0, dropout=0.1, target_modules=["q_proj", "v_proj"]
    )


def test_a_lora_method_may_be_searched() -> None:
    lora = "{type: lora, rank: {choices: [8, 32]}, dropout: {low: 0.0, high: 0.2}}"
    spec = parse_study(edited("{type: full}", lora, PUBLISHED), "study.yaml", {})
    assert _space(spec)["method.rank"] == (8, 32)
    assert refused(edited("{type: full}", lora.replace("0.2", "1.0"), PUBLISHED)) == [
        "training.method.dropout: given 1.0; allowed: less than 1"
    ]


def test_the_other_objective_of_the_printed_study() -> None:
    text = edited(
        "metric: loss, direction: minimize", "metric: accuracy, direction: maximize", PUBLISHED
    )
    assert parse_study(text, "study.yaml", {}).objective.direction == "maximize"


def _space(spec: StudySpec) -> dict[str, tuple[Scalar, ...]]:
    return {p.name: _ends(p) for p in SearchSpace.of(spec.training).parameters()}
