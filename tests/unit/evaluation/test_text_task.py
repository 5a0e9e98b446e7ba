from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.errors import InputError
from hpo.spec.tasks import TextTask
from workers.evaluation.tasks.task import NOT_ASKED, Grade, Graded, Item
from workers.evaluation.tasks.text import EMPTY, SCORED, TextGrader

CHRF = TextGrader(TextTask(type="text"))
BLEU = TextGrader(TextTask(type="text", measure="bleu"))
CAT = "the cat sat on the mat"


def graded(*pairs: tuple[str, str]) -> list[Graded]:
    return [
        Graded(Item("", reference), [answer], [CHRF.grade(Item("", reference), answer)])
        for answer, reference in pairs
    ]


def test_known_scores() -> None:
    item = Item("", CAT)
    # As the command `sacrebleu REFERENCES -i ANSWERS -m bleu chrf` tells them.
    assert CHRF.grade(item, "the cat sat on a mat").score == pytest.approx(0.659797, abs=1e-6)
    assert BLEU.grade(item, "the cat sat on a mat").score == pytest.approx(0.537285, abs=1e-6)
    assert CHRF.grade(item, "xyz").score == 0


@given(st.text(min_size=1).filter(str.strip))
def test_the_reference_itself_has_the_full_score(text: str) -> None:
    for grader in (CHRF, BLEU):
        grade = grader.grade(Item("", text), text)
        assert (grade.category, grade.score) == (SCORED, 1.0)


@given(st.text(), st.text(min_size=1).filter(str.strip))
def test_any_answer_has_a_score_from_0_to_1(answer: str, reference: str) -> None:
    for grader in (CHRF, BLEU):
        grade = grader.grade(Item("", reference), answer)
        assert grade.category == (SCORED if answer.strip() else EMPTY)
        assert 0 <= grade.score <= 1
        assert grade == grader.grade(Item("", reference), answer)


def test_measures_are_of_the_whole_set() -> None:
    # By the same command; the mean of the sentences would have a BLEU of 76.9.
    measures = BLEU.measures(graded((CAT, CAT), ("the cat sat on a mat", CAT)))
    assert measures == pytest.approx({"chrf": 83.2402, "bleu": 77.8158}, abs=1e-4)


def test_answers_that_are_missing_count() -> None:
    item = Item("", CAT)
    missing = Graded(item, ["", CAT], [Grade(NOT_ASKED, 0.0), CHRF.grade(item, CAT)])
    assert 0 < CHRF.measures([missing])["chrf"] < 100
    assert CHRF.measures([]) == {}


def test_no_warning_about_periods_that_stand_apart(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        BLEU.measures(graded(*[("a cat .", "a cat .")] * 200))
    assert caplog.records == []


def test_a_reference_needs_text() -> None:
    with pytest.raises(InputError, match="reference '' is empty; allowed for task text: a text"):
        CHRF.check(Item("", " "))
