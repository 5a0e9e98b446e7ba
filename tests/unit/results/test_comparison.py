"""Two evaluations on the same items, from what is stored of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from hpo.results.comparison import Side, against_base, compare
from hpo.results.pairs import Pair, natural
from hpo.spec.errors import StudyError
from storage.records import EvaluationRecord

THEN = datetime(2026, 1, 1, tzinfo=UTC)


def record(**result: Any) -> EvaluationRecord:
    return EvaluationRecord(
        id=1,
        study_id=1,
        trial_id=1,
        number=3,
        step=5,
        examples=80,
        rung=None,
        checkpoint=None,
        fence=1,
        attempts=1,
        test=False,
        state="done",
        worker_id=None,
        result={"loss": 1.0, "perplexity": 2.75, **result},
        reported=False,
        error=None,
        created_at=THEN,
        claimed_at=THEN,
        finished_at=THEN,
    )


def base(**result: Any) -> Side:
    return Side("base model", None, record(**result))


def trial(**result: Any) -> Side:
    return Side("trial 3, batch 5", 3, record(**result))


def test_items_that_changed() -> None:
    found = compare(base(outcomes=[0, 0, 1, 1, 0]), trial(outcomes=[0, 1, 0, 1, 1])).accuracy
    assert found is not None
    assert [change.item for change in found.improved] == [1, 4]
    assert [change.item for change in found.worsened] == [2]
    assert found.share == Pair(0.4, 0.6)
    assert found.share.relative == pytest.approx(0.5)
    assert found.difference.difference == pytest.approx(0.2)
    assert found.difference.low < 0.2 < found.difference.high
    assert found.test is not None
    # Three coins, two of them or more alike: always.
    assert (found.test.only_after, found.test.only_before, found.test.p_value) == (2, 1, 1.0)


def test_counts_that_one_side_does_not_know_are_not_compared() -> None:
    """Results of an earlier version hold no categories: that is not none of each."""
    old, new = base(outcomes=[0, 1]), trial(outcomes=[0, 1], categories={"correct": 1, "empty": 1})
    assert compare(old, new).counts() == {}
    assert compare(new, new).counts() == {"correct": Pair(1, 1), "empty": Pair(1, 1)}


def test_items_between_right_and_wrong_have_no_exact_test() -> None:
    found = compare(base(outcomes=[0, 0.5, 0.75]), trial(outcomes=[0.25, 1, 0.5])).accuracy
    assert found is not None
    assert found.test is None
    # The largest change first.
    assert [change.item for change in found.improved] == [1, 0]
    assert (
        "mcnemar_p"
        not in compare(base(outcomes=[0, 0.5]), trial(outcomes=[1, 1])).as_dict()["accuracy"]
    )


def test_outcomes_of_an_earlier_version_are_truth_values() -> None:
    old = base(outcomes=[True, False], accuracy=0.5)
    new = trial(outcomes=[1, 1], items_hash="sha256:1", decoding={"temperature": 0.0})
    found = compare(old, new)
    assert found.accuracy is not None
    assert found.accuracy.share.difference == 0.5
    assert found.counts() == {}
    assert found.breakdown() == {}


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (
            {"outcomes": [1], "items_hash": "sha256:1"},
            {"outcomes": [1], "items_hash": "sha256:2"},
            "they were given sets of items with sha256:1 and sha256:2",
        ),
        (
            {"outcomes": [1], "decoding": {"temperature": 1.0, "seed": 0}},
            {"outcomes": [1], "decoding": {"temperature": 1.0, "seed": 7}},
            "they were decoded with seed 0 and seed 7",
        ),
        ({"outcomes": [1]}, {"outcomes": [1, 0]}, "they were given 1 and 2 items"),
        ({"outcomes": []}, {"outcomes": [1]}, "base model has no graded answers"),
        ({"outcomes": [1]}, {"accuracy": None}, "trial 3, batch 5 has no graded answers"),
    ],
)
def test_what_was_asked_otherwise_is_refused(
    before: dict[str, Any], after: dict[str, Any], why: str
) -> None:
    with pytest.raises(StudyError, match=why):
        compare(base(**before), trial(**after))


def test_without_a_generation_set_the_losses_are_compared() -> None:
    found = compare(base(), trial(loss=0.5, perplexity="inf"))
    assert found.accuracy is None
    assert found.scores()["loss"].difference == -0.5
    assert found.scores()["perplexity"] == Pair(2.75, None)
    json.dumps(found.as_dict(), allow_nan=False)


def test_everything_is_side_by_side() -> None:
    easy = {"total": 4, "accuracy": 0.5}
    before = {
        "outcomes": [0, 1],
        "categories": {"wrong_answer": 1, "correct": 1},
        "truncated": 2,
        "measures": {"pass@1": 0.5},
        "by": {"level": {"level 2": easy, "level 10": easy}},
    }
    after = {
        "outcomes": [1, 1],
        "categories": {"correct": 2, "not_gradable": 0},
        "truncated": 0,
        "measures": {"pass@1": 1.0, "chrf": 60.0},
        "by": {"level": {"level 10": {"total": 4, "accuracy": 1.0}}, "other": {}},
    }
    found = compare(base(**before), trial(**after))
    assert list(found.counts()) == ["correct", "wrong_answer", "not_gradable"]
    assert found.counts()["correct"].difference == 1
    assert found.truncated() == Pair(2, 0)
    assert found.breakdown() == {"level": {"level 2": Pair(0.5, None), "level 10": Pair(0.5, 1.0)}}
    assert list(found.breakdown()["level"]) == ["level 2", "level 10"]
    assert found.scores()["chrf"] == Pair(None, 60.0)
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_best_against_the_base_model() -> None:
    assert against_base(None, record()) is None
    better = against_base(record(outcomes=[0, 0], loss=2.0), record(outcomes=[1, 1], loss=0.5))
    assert better is not None
    assert better["loss"] == {"before": 2.0, "after": 0.5, "difference": -1.5, "relative": -0.75}
    assert better["accuracy"]["difference"] == 1.0
    # Of other items only the losses say something.
    assert "accuracy" not in (against_base(record(outcomes=[0]), record(outcomes=[1, 1])) or {})
    assert "accuracy" not in (against_base(record(), record()) or {})


def test_numbers_in_names_are_numbers() -> None:
    assert sorted(["level 10", "9", "level 2", "", "x"], key=natural) == [
        "",
        "9",
        "level 2",
        "level 10",
        "x",
    ]
