from __future__ import annotations

import pytest

from hpo.spec.errors import InputError
from workers.evaluation.grading.grader import Grader


def test_exact_compares_stripped_text() -> None:
    with Grader() as grader:
        graded = grader.grade("exact", [" a b\n", "a  b", "A b"], ["a b", "a b", "a b"])
    assert graded == [True, False, False]


def test_numeric_compares_values() -> None:
    answers = ["so it is 1,000.0", "#### 12", "no idea", "7"]
    references = ["#### 1000", "2 * 6 = 12\n#### 12", "3", "8"]
    with Grader() as grader:
        assert grader.grade("numeric", answers, references) == [True, True, False, False]


def test_numeric_reference_needs_a_number() -> None:
    with Grader() as grader, pytest.raises(InputError, match="'none' holds no number"):
        grader.grade("numeric", ["1"], ["none"])


def test_as_many_references_as_answers() -> None:
    with Grader() as grader, pytest.raises(ValueError, match="2 answers, 1 references"):
        grader.grade("exact", ["a", "b"], ["a"])
