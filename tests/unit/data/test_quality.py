import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec.cleaning import ComputedQuality, FieldQuality
from workers.data.cleaning import quality
from workers.data.cleaning.quality import agreement, code, completeness, length, score
from workers.data.example import Example, UnusableRow

FIELD = FieldQuality(type="field", field="rating")
COMPUTED = ComputedQuality(type="computed")


@given(st.text(), st.none() | st.text())
def test_a_score_lies_between_0_and_1(completion: str, answer: str | None) -> None:
    example = Example.pair("q", completion, answer=answer)
    assert 0 <= score(example, COMPUTED) <= 1
    assert score(example, COMPUTED) == score(example, COMPUTED)


def test_a_good_solution_has_the_full_score() -> None:
    completion = "She sold 24 in May, so 48 + 24 = 72 together in both months.\n#### 72"
    assert score(Example.pair("q", completion, answer="72"), COMPUTED) == 1
    assert score(Example.pair("q", completion, answer="73"), COMPUTED) == 0.75
    assert score(Example.pair("q", completion), COMPUTED) == 1


def test_without_any_part_left_the_score_is_1() -> None:
    spec = ComputedQuality(type="computed", parts=("agreement",))
    assert score(Example.pair("q", "a"), spec) == 1


def test_the_data_can_bring_the_score() -> None:
    assert score(Example.pair("q", "a", quality=0.25), FIELD) == 0.25


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "f:3: given no `rating`"),
        (1.5, "f:3: given `rating` of 1.5"),
        (float("nan"), "f:3: given `rating` of nan"),
    ],
)
def test_a_score_that_is_missing_or_none_is_named(value: float | None, message: str) -> None:
    with pytest.raises(UnusableRow, match=message):
        score(Example.pair("q", "a", quality=value, where="f:3"), FIELD)


def test_length_rises_and_falls() -> None:
    assert [length(n) for n in (0, 20, 40, 4_000, 10_000, 16_000, 99_999)] == [
        0,
        0.5,
        1,
        1,
        0.5,
        0,
        0,
    ]
    assert quality.FULL_LENGTH < quality.LONG < quality.TOO_LONG


@pytest.mark.parametrize(
    "completion",
    [
        "It is so.",
        "Is it so?  \n",
        '"It is so."',
        "**So.**",
        "It is (so)",
        "12 + 3 = 15",
        "So:\n```python\nx = 1\n```",
        "Because.\n#### Paris",
        "So <answer>Paris</answer>",
        "So $\\boxed{x}$",
        "int main() { return 0; }",
        "    for x in y:\n        return x\n    return z",
    ],
)
def test_a_text_with_an_end_is_complete(completion: str) -> None:
    assert completeness(completion) == 1


@pytest.mark.parametrize(
    "completion",
    ["", " \n", "It is so...", "It is so\u2026", "It is and", "It is:", "```python\nx = 1.", "a b"],
)
def test_a_text_without_an_end_is_cut_off(completion: str) -> None:
    assert completeness(completion) == 0


def test_code_is_the_share_of_blocks_that_parse() -> None:
    assert code("no code") == 1
    assert code("```python\nx = 1\n```\n```py\nx = (\n```\n```c\nx = (\n```") == 0.5
    assert code("1. so\n   ```python\n   x = 1\n   ```") == 1
    assert code("```python\n" + "(" * 10_000 + "\n```\n```python\n\0\n```") == 0


@pytest.mark.parametrize(
    ("completion", "known", "value"),
    [
        ("so\n#### 1,000", "1000.0", 1),
        ("so\n#### 72", "a worked solution\n#### 72", 1),
        ("so \\boxed{\\frac{1}{2}}", "0.5", 1),
        ("#### 5\nwhich is \\boxed{6}", "5", 0),
        ("That makes 12, so\nthe answer is 72.", "72", 1),
        ("The answer is 72.\nI hope that helps.", "72", 0),
        ("Paris", "paris", 1),
        ("Rome", "Paris", 0),
        ("", "Paris", 0),
        ("anything", None, None),
    ],
)
def test_agreement_is_that_of_the_final_answer(
    completion: str, known: str | None, value: float | None
) -> None:
    assert agreement(completion, known) == value
