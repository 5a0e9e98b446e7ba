"""Study files of the tests of the specification."""

from __future__ import annotations

import pytest
import yaml

from hpo.spec.errors import SpecError
from hpo.spec.load import parse_study
from hpo.spec.space import Choices, Parameter, Scalar, SearchSpace
from hpo.spec.study import StudySpec

MINIMAL = """\
name: tiny
objective: {metric: loss, direction: minimize}
model: {path: base}
data:
  train: {path: train.jsonl}
  loss: {path: valid.jsonl}
training:
  optimizer: {type: adamw, learning_rate: 1e-4}
  effective_batch_size: 8
  max_batches: 10
evaluation: {every: {batches: 5}}
budget: {trials: 2}
"""
LEARNING_RATE = "learning_rate: 1e-4"
BATCH = "effective_batch_size: 8"
METHOD = f"{BATCH}\n  method: "


def edited(old: str, new: str, text: str = MINIMAL) -> str:
    """The text with the only occurrence of `old` replaced."""
    assert text.count(old) == 1
    return text.replace(old, new)


def parsed(text: str, **variables: str) -> StudySpec:
    return parse_study(text, "study.yaml", variables)


def refused(text: str, **variables: str) -> list[str]:
    """The lines of the refusal, without the file's name that leads each."""
    with pytest.raises(SpecError) as caught:
        parsed(text, **variables)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems)
    assert all(line.startswith("study.yaml: ") for line in lines)
    return [line.removeprefix("study.yaml: ") for line in lines]


def space_of(training: str) -> SearchSpace:
    """The search space of a training section's text."""
    return SearchSpace.of(yaml.safe_load(training))


def first(parameter: Parameter) -> Scalar:
    """Draws the first option, or the low end."""
    node = parameter.node
    return node.labels[0] if isinstance(node, Choices) else node.low
