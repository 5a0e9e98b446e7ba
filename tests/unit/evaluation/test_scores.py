from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from hpo.spec.tasks import Decoding, ExactTask
from workers.data.batches.loss import ExampleLoss, LossResult
from workers.evaluation.scores import Answered, Scores, Timings
from workers.evaluation.sets import GenerationSet
from workers.evaluation.tasks.task import Grade, Graded, Item

TIMINGS = Timings(load=0.1, generate=0.4, grade=0.1, switch=0.05, loss=0.2, total=1.0)
CATEGORIES = ("correct", "wrong_answer", "format_failure")
LEVELS = ("easy", "hard", "easy", "hard")
ITEMS = [
    Item(f"prompt {index}", "right", labels={"level": level}) for index, level in enumerate(LEVELS)
]


def items(samples: int = 1, pass_at: tuple[int, ...] = ()) -> GenerationSet:
    return GenerationSet(
        items=ITEMS,
        prompts=[[1]] * len(ITEMS),
        task=ExactTask(),
        max_new_tokens=4,
        decoding=Decoding(temperature=float(samples > 1), samples=samples, pass_at=pass_at),
        by=("level",),
    )


def graded(scores: Sequence[Sequence[float]]) -> list[Graded]:
    return [
        Graded(
            item,
            [""] * len(found),
            [Grade("correct" if score == 1 else "wrong_answer", score) for score in found],
        )
        for item, found in zip(ITEMS, scores, strict=True)
    ]


def answered(scores: Sequence[Sequence[float]], pass_at: tuple[int, ...] = ()) -> Answered:
    part = items(len(scores[0]), pass_at)
    return Answered.of(part, graded(scores), categories=CATEGORIES, measures={}, truncated=1)


def scored(loss: float, answered: Answered | None = None) -> Scores:
    return Scores(loss, loss * 4, 4, loss, TIMINGS, answered=answered)


def test_overhead_is_what_is_neither_generation_nor_grading_nor_loss() -> None:
    assert TIMINGS.overhead == pytest.approx(0.3)


@pytest.mark.parametrize("loss", [1.5, math.nan, math.inf, -math.inf])
def test_every_loss_survives_strict_json(loss: float) -> None:
    text = json.dumps(scored(loss).as_dict(), allow_nan=False)
    read = json.loads(text)
    assert str(float(read["loss"])) == str(loss)
    assert read["timings"]["overhead"] == pytest.approx(0.3)
    assert read["accuracy"] is None


def test_weights_that_are_not_finite_say_so() -> None:
    read = json.loads(json.dumps(Scores.diverged("layer x is nan", TIMINGS).as_dict()))
    assert (read["loss"], read["reason"]) == ("nan", "layer x is nan")


def test_counts_add_up_to_the_items_and_answers() -> None:
    found = scored(1.0, answered([[1], [0], [1], [1]])).as_dict()
    assert (found["accuracy"], found["correct"], found["total"]) == (0.75, 3, 4)
    assert found["outcomes"] == [1, 0, 1, 1]
    assert found["categories"] == {"correct": 3, "wrong_answer": 1, "format_failure": 0}
    assert sum(found["categories"].values()) == found["answers_total"] == 4
    assert found["interval"] == "wilson"


def test_a_breakdown_adds_up_to_the_whole() -> None:
    by = scored(1.0, answered([[1], [0], [1], [1]])).as_dict()["by"]["level"]
    assert {value: (part["correct"], part["total"]) for value, part in by.items()} == {
        "easy": (2, 2),
        "hard": (1, 2),
    }


def test_several_answers_to_an_item_are_one_outcome() -> None:
    found = scored(1.0, answered([[1, 0], [0, 0], [1, 1], [0, 1]], (1, 2))).as_dict()
    assert found["outcomes"] == [0.5, 0, 1, 0.5]
    assert (found["correct"], found["answers_total"]) == (1, 8)
    # By hand: of two answers pass@1 is the share that is right, pass@2 whether one is.
    assert found["measures"] == {"pass@1": 0.5, "pass@2": 0.75}
    assert found["interval"] == "bootstrap"
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_items_that_differ_anywhere_are_another_set() -> None:
    hashes = {items().hash, GenerationSet(ITEMS[:3], [], ExactTask(), 4, Decoding()).hash}
    changed = [*ITEMS[:3], Item("prompt 3", "wrong", labels={"level": "hard"})]
    hashes.add(GenerationSet(changed, [], ExactTask(), 4, Decoding()).hash)
    assert len(hashes) == 3
    assert items().hash == items(2).hash


def test_the_loss_is_told_by_length() -> None:
    loss = LossResult.of([ExampleLoss(10, 6.0, 4), ExampleLoss(30, 2.0, 2), ExampleLoss(9, 3.0, 1)])
    scores = Scores.of(loss, (16, 24), None, TIMINGS, {})
    assert scores.as_dict()["loss_by_length"] == [
        {"longest": 16, "examples": 2, "tokens": 5, "loss": 9 / 5},
        {"longest": None, "examples": 1, "tokens": 2, "loss": 1.0},
    ]
    assert scores.value("loss") == loss.mean == 11 / 7
