from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hpo.spec.data import DataSpec
from hpo.spec.errors import SpecError
from hpo.spec.load import parse_study
from hpo.spec.sources import TrainData
from hpo.spec.space import SearchSpace

STUDY = """\
name: fields
objective: {{metric: loss, direction: minimize}}
model: {{path: user/model}}
data:
  train: {{path: user/train, completion: {completion}}}
  loss: {{path: user/valid{loss}}}
  {more}
training:
  optimizer: {{learning_rate: 1e-4}}
  effective_batch_size: 8
  max_batches: 9
  {training}
evaluation: {{every: {{batches: 3}}}}
budget: {{trials: 1}}
"""


def study(completion: str = "a", loss: str = "", more: str = "", training: str = "") -> str:
    return STUDY.format(completion=completion, loss=loss, more=more, training=training)


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as error:
        parse_study(text, "study.yaml", {})
    return [line.removeprefix("study.yaml: ") for line in str(error.value).splitlines()]


def data(**content: Any) -> dict[str, Any]:
    return {"train": {"path": "a"}, "loss": {"path": "b"}, **content}


@pytest.mark.parametrize(
    "content",
    [
        data(train={}),
        data(train={"path": "a", "sources": [{"path": "b"}]}),
        data(train={"path": "a", "prompt": "{open"}),
        data(loss={}),
        data(loss={"path": "b", "fraction": 0.1}),
        data(loss={"fraction": 0.1, "where": {"split": "valid"}}),
        data(loss={"fraction": 1.0}),
        data(loss={"where": {"split": "valid"}, "records": ["valid"]}),
        data(template="no fields"),
        data(template="{prompt} } {completion}"),
        data(template="{prompt}{completion}", loss_on="assistant"),
        data(few_shot={"count": 4}),
        data(few_shot={"count": 1}),
        data(few_shot={"count": 1, "origin": "train"}, max_prompt_tokens=9),
        data(loss={"fraction": 0.1, "prompt": "Solve: {question}"}),
        data(loss={"where": {"split": "valid"}, "format": "messages"}),
        data(loss={"path": "b", "seed": 3}),
        data(train={"path": "a", "format": "alpaca", "prompt": "question"}),
        data(train={"prompt": "q", "sources": [{"path": "a", "format": "text", "prompt": "q"}]}),
        data(template="chatml", separator=" "),
        data(labels=["file"]),
        data(test={"path": "c", "task": "numeric"}),
        data(quality={"type": "computed", "parts": []}),
        data(cleaning={"near_duplicates": {"threshold": 0}}),
    ],
)
def test_contradictions_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DataSpec.model_validate(content)


def test_sources_take_over_what_they_leave_open() -> None:
    train = TrainData.model_validate(
        {
            "prompt": "question",
            "where": {"split": "train"},
            "sources": [{"path": "a"}, {"path": "b", "prompt": "asked", "weight": 2}],
        }
    )
    first, second = train.all_sources()
    assert (first.prompt, first.where, first.weight) == ("question", {"split": "train"}, 1.0)
    assert (second.prompt, second.where, second.weight) == ("asked", {"split": "train"}, 2.0)
    again = TrainData.model_validate(train.model_dump(mode="json"))
    assert again.all_sources() == train.all_sources()


def test_the_field_that_is_trained_on_is_searched_like_any_other() -> None:
    text = study("{choices: [a, b]}", ", completion: a")
    spec = parse_study(text, "study.yaml", {})
    (parameter,) = SearchSpace.of(spec.training).parameters()
    assert parameter.name == "completion"
    assert spec.data.train.completion is None
    same = study("a", ", completion: a", training="completion: {choices: [a, b]}")
    assert parse_study(same, "study.yaml", {}).training == spec.training


def test_trials_that_train_on_different_fields_are_scored_on_one() -> None:
    assert problems(study("{choices: [a, b]}", more="same: example")) == [
        "data.loss.completion: given nothing; allowed: the field that every trial is scored on, "
        "as training.completion chooses another one to train on (a, b)",
        "data.same: given 'example'; allowed: prompt, as trials train on different completions",
    ]


def test_weighing_by_quality_needs_a_score() -> None:
    wanted = [
        "data.quality: given nothing; allowed: a quality section, which "
        "training.quality_weighting needs"
    ]
    assert problems(study(training="quality_weighting: true")) == wanted
    assert problems(study(training="quality_weighting: {choices: [true, false]}")) == wanted
    scored = study(training="quality_weighting: true", more="quality: {type: computed}")
    assert parse_study(scored, "study.yaml", {}).data.quality is not None


def test_a_source_of_another_format_has_no_use_for_shared_names() -> None:
    train = TrainData.model_validate(
        {"prompt": "question", "sources": [{"path": "a"}, {"path": "b", "format": "sharegpt"}]}
    )
    assert [source.prompt for source in train.all_sources()] == ["question", None]


def test_the_test_set_is_answered_like_the_generation_set() -> None:
    content = data(
        generation={"path": "c", "task": "numeric", "max_new_tokens": 9}, test={"path": "d"}
    )
    test = DataSpec.model_validate(content).answered_sets()["test"]
    assert (test.path, test.task.type, test.max_new_tokens) == ("d", "numeric", 9)
    assert DataSpec.model_validate(data(test={"path": "d"})).answered_sets() == {}


def test_a_format_without_completions_has_none_to_search() -> None:
    text = study(training="completion: {choices: [a, b]}", loss=", completion: a")
    text = text.replace("completion: a}", "format: messages}", 1)
    assert problems(text)[0].startswith("data.train.format: given 'messages'; allowed: a format")
