from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.spec.errors import InputError
from hpo.spec.identity import identity
from hpo.spec.load import parse_study
from hpo.spec.tasks import AnyTask, Decoding, ExactTask, NumericTask, PythonTask, TextTask
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.sets import GenerationSet, require_gradable, require_same_graders
from workers.evaluation.tasks.task import Item

REFERENCES = ["It is 1", "It is 2", "It is 3"]


@pytest.fixture
def pool() -> Iterator[GradingPool]:
    with GradingPool(1) as found:
        yield found


def asked(task: AnyTask, perfect: list[str]) -> GenerationSet:
    items = [Item(f"prompt {index}", text) for index, text in enumerate(REFERENCES)]
    return GenerationSet(items, [[1]] * 3, task, 4, Decoding(), perfect=perfect)


def test_a_set_whose_own_answers_are_right_is_taken(pool: GradingPool) -> None:
    require_gradable(pool, asked(ExactTask(), REFERENCES), "data.generation")
    require_gradable(pool, asked(NumericTask(type="numeric"), REFERENCES), "data.generation")


def test_a_task_that_rejects_what_is_right_is_refused(pool: GradingPool) -> None:
    perfect = [REFERENCES[0], "so 2", REFERENCES[2]]
    with pytest.raises(InputError) as refused:
        require_gradable(pool, asked(ExactTask(), perfect), "data.test")
    assert str(refused.value) == (
        "data.test.task: given 'exact', by which the item's own answer 'so 2' is wrong answer "
        "against 'It is 2'; allowed: a task that goes with data.template and the completions"
    )


def test_a_task_that_measures_may_find_own_answers_odd(
    pool: GradingPool, caplog: pytest.LogCaptureFixture
) -> None:
    perfect = [REFERENCES[0], "something else", REFERENCES[2]]
    require_gradable(pool, asked(TextTask(type="text"), perfect), "data.generation")
    assert "1 of the 3 that were tried" in caplog.text


def test_a_grader_that_fails_on_most_answers_is_refused_with_its_words(
    pool: GradingPool, tmp_path: Path
) -> None:
    file = tmp_path / "grader.py"
    file.write_text(
        "def grade(answer, reference, fields):\n    return {'It is 1': 1.0}[reference]\n"
    )
    task = PythonTask(type="python", path=str(file))
    with pytest.raises(InputError, match=r"not gradable against 'It is 2' \(KeyError: 'It is 2'"):
        require_gradable(pool, asked(task, REFERENCES), "data.generation")


STUDY = """
name: own
objective: {{metric: loss, direction: minimize}}
model: {{path: base}}
data:
  train: {{path: train.jsonl}}
  loss: {{path: valid.jsonl}}
  generation: {{path: items.jsonl, task: {{type: python, path: {grader}}}}}
  test: {{path: test.jsonl}}
training:
  optimizer: {{type: adamw, learning_rate: 1e-4}}
  effective_batch_size: 8
  max_batches: 10
evaluation: {{every: {{batches: 5}}}}
budget: {{trials: 2}}
"""


def test_a_grader_that_changed_since_the_study_was_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "grader.py"
    file.write_text("def grade(answer, reference, fields): return True\n")
    spec = parse_study(STUDY.format(grader=file), "study.yaml", {})
    record = SimpleNamespace(identity=identity(spec))
    session: Any = SimpleNamespace(spec=spec, record=record)
    require_same_graders(session)
    file.write_text("def grade(answer, reference, fields): return False\n")
    with pytest.raises(InputError, match=r"data\.generation\.task\.path: .*not the grader"):
        require_same_graders(session)
