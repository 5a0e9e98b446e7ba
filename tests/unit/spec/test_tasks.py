from __future__ import annotations

from typing import Any

import pytest
from study_text import edited, parsed, refused

from hpo.spec.data import DataSpec
from hpo.spec.identity import frozen, input_paths
from hpo.spec.sources import GenerationData
from hpo.spec.study import EvaluationSpec
from hpo.spec.tasks import Decoding, MathTask, fields_of


def generation(**fields: Any) -> GenerationData:
    return GenerationData.model_validate({"path": "items.jsonl", **fields})


def study(generation: str, more: str = "") -> str:
    text = edited(
        "  loss: {path: valid.jsonl}",
        f"  loss: {{path: valid.jsonl}}\n  generation: {{path: items.jsonl, {generation}}}",
    )
    return text + more


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("math", "math"),
        ({"type": "math"}, "math"),
        ({"type": "math", "answer": "any"}, "math"),
        ({"type": "math", "answer": "boxed"}, {"type": "math", "answer": "boxed"}),
        ({"type": "python", "path": "g.py"}, None),
    ],
    ids=["name", "mapping", "defaults", "options", "required"],
)
def test_a_task_is_stored_as_short_as_it_can_be_written(given: Any, stored: Any) -> None:
    part = generation(task=given)
    content = part.model_dump(mode="json")
    assert content["task"] == stored or stored is None
    assert GenerationData.model_validate(content) == part


def test_a_study_of_the_last_version_is_the_same_study() -> None:
    spec = parsed(study("task: math"))
    content = spec.model_dump(mode="json")
    # As it was stored before decoding and breakdowns were there.
    for name in ("decoding", "by"):
        del content["data"]["generation"][name]
    assert frozen(type(spec).model_validate(content)) == frozen(spec)


def test_a_grader_of_ones_own_counts_by_its_content() -> None:
    spec = parsed(study("task: {type: python, path: grader.py}"))
    found = dict(input_paths(frozen(spec)))
    assert found["data.generation.task"]["path"] == "grader.py"


def test_how_answers_are_written_belongs_to_the_study_and_the_engines_do_not() -> None:
    plain, sampled = (
        frozen(parsed(study(f"task: math, decoding: {{{text}}}")))
        for text in ("", "temperature: 0.8")
    )
    assert plain != sampled
    memory = frozen(parsed(study("task: math").replace("every:", "memory: reload, every:")))
    assert memory == plain


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "task: maths",
            "data.generation.task.type: given 'maths'; allowed: 'exact', 'normalised', 'numeric', "
            "'math', 'choice', 'code', 'program', 'text', 'python'",
        ),
        (
            "task: {answer: boxed}",
            "data.generation.task: given {'answer': 'boxed'}; allowed: a mapping with the key type",
        ),
        (
            "task: {type: choice, letters: ABA}",
            "data.generation.task.letters: given 'ABA'; allowed: different letters",
        ),
        (
            "decoding: {samples: 4}",
            "data.generation.decoding.samples: given 4; allowed: nothing with temperature 0, as "
            "greedy",
        ),
        (
            "decoding: {temperature: 1, samples: 4, pass_at: [1, 8]}",
            "data.generation.decoding.pass_at: given 8; allowed: at most the 4 samples of each "
            "prompt",
        ),
        (
            "decoding: {stop: ['']}",
            "data.generation.decoding.stop: given ['']; allowed: texts that are not empty",
        ),
    ],
)
def test_what_cannot_be_graded_is_one_line(text: str, line: str) -> None:
    assert refused(study(text)) == [line]


def test_an_answer_of_a_task_names_the_fields_that_it_needs() -> None:
    assert fields_of(generation(task="code").task) == ("test", "entry_point", "prompt")
    bare = {"type": "code", "entry_point": None, "continues": None}
    assert fields_of(generation(task=bare).task) == ("test",)
    assert fields_of(generation(task="program").task) == ("tests",)
    assert fields_of(MathTask(type="math")) == ()


def test_a_test_set_is_written_and_broken_down_like_the_generation_set() -> None:
    data = DataSpec.model_validate(
        {
            "train": {"path": "a"},
            "loss": {"path": "b"},
            "generation": {
                "path": "c",
                "by": ["level"],
                "decoding": {"temperature": 0.8, "samples": 3},
            },
            "test": {"path": "d", "by": []},
        }
    )
    test = data.answered_sets()["test"]
    assert test.decoding == Decoding(temperature=0.8, samples=3)
    assert test.by == ()


def test_buckets_ascend() -> None:
    with pytest.raises(ValueError, match="ascending"):
        EvaluationSpec.model_validate({"every": {"batches": 1}, "length_buckets": [8, 4]})
