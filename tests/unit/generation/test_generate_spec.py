from __future__ import annotations

from pathlib import Path

import pytest
from generate_text import refused, spec_of

from hpo.spec.errors import InputError
from hpo.spec.generate import GenerateSpec, load_generate

MODEL = "model: {path: model, dtype: float32}"
SOURCE = "{path: prompts.jsonl, prompt: question, level: level}"
C2 = "C2: {max_new_tokens: 40}"


def test_a_file_is_read_with_defaults(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (MODEL, 'model: {path: "${MODELS}/writer"}'))
    assert spec.model.path == "/models/writer"
    assert (spec.model.dtype, spec.attempts, spec.engine.batch) == ("bfloat16", 3, 64)
    assert spec.levels["A1"].system_prompt == "You teach beginners."
    assert spec.checks.opening is not None
    assert GenerateSpec.model_validate_json(spec.model_dump_json()) == spec


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    lines = refused(
        tmp_path,
        (MODEL, 'model: {path: "${NOWHERE}"}'),
        (SOURCE, "{path: p.jsonl, prompt: q, level: level, levle: x}"),
        (C2, "C2: {max_new_tokens: 0, temprature: 1}"),
        ("output: out", "output: out\nchecks: {opening: {words: 0}, phrases: [1]}"),
    )
    assert [line.partition(":")[0] for line in lines] == [
        "model.path",
        "prompts.0.levle",
        "levels.C2.max_new_tokens",
        "levels.C2.temprature",
        "checks.phrases.0",
        "checks.opening.words",
    ]
    assert lines[0].endswith("but NOWHERE is not set; allowed: set NOWHERE in the environment")
    assert lines[1].endswith("(did you mean level?)")
    assert lines[3].endswith("(did you mean temperature?)")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            SOURCE,
            "{path: p.jsonl, level: level, fixed_level: A1}",
            "prompts.0.fixed_level: given a level besides; "
            "allowed: level (a field) or fixed_level, not both",
        ),
        (
            SOURCE,
            "{path: p.jsonl, fixed_level: B1}",
            "prompts.0.fixed_level: given 'B1'; allowed: one of the levels A1, C2",
        ),
        (
            SOURCE,
            "{path: p.jsonl}",
            "prompts.0: given no level; allowed: level (a field), fixed_level or default_level",
        ),
        (
            "output: out",
            "output: out\ndefault_level: B1",
            "default_level: given 'B1'; allowed: one of the levels A1, C2",
        ),
        (C2, "C2: {top_p: 0}", "levels.C2.top_p: given 0; allowed: greater than 0"),
        (C2, "C2: {stop: END}", "levels.C2.stop: given 'END'; allowed: a list"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert refused(tmp_path, (old, new)) == [line]


def test_levels_may_be_numbers(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (C2, "3: {}"), (SOURCE, '{path: p.jsonl, fixed_level: "3"}'))
    assert list(spec.levels) == ["A1", "3"]


def test_a_greedy_level_is_tried_once(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (C2, "C2: {temperature: 0}"))
    assert (spec.attempts_at("A1"), spec.attempts_at("C2")) == (3, 1)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: the file cannot be read: No such file"):
        load_generate(str(tmp_path / "none.yaml"), {})
