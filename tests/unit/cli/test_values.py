from __future__ import annotations

from typing import Any

import pytest

from hpo.cli.values import decoding, percent, scores, shortened, signed, visible


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0, "0"), (0.25, "+0.25"), (-3, "-3"), (1e-5, "+1e-05")]
)
def test_differences_have_a_sign(value: float | None, text: str) -> None:
    assert signed(value) == text


def test_relative_changes() -> None:
    assert [percent(share) for share in (None, -0.5, 12.3456)] == ["", "-50 %", "+1.23e+03 %"]


def test_scores_tell_what_is_known() -> None:
    assert scores({"loss": 0.5}) == "loss 0.5"
    assert scores({"loss": "nan", "accuracy": 0}) == "loss nan, accuracy 0"
    known = {"loss": 0.5, "accuracy": 0.25, "accuracy_low": 0.125, "accuracy_high": 0.5}
    assert scores(known) == "loss 0.5, accuracy 0.25 (0.125 to 0.5)"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, ""),
        ({"temperature": 0.0, "samples": 1, "seed": 0, "stop": []}, "greedy"),
        ({"temperature": 0.0, "max_new_tokens": 64}, "greedy, at most 64 tokens"),
        (
            {"temperature": 0.5, "top_p": 0.9, "samples": 4, "seed": 7, "stop": ["Q:"]},
            "temperature 0.5, top_p 0.9, samples 4, seed 7, stop ['Q:']",
        ),
    ],
)
def test_decoding_in_words(given: dict[str, Any] | None, text: str) -> None:
    assert decoding({"decoding": given} if given else {}) == text


def test_a_models_text_commands_no_terminal() -> None:
    assert visible("a\x1b[31mb\r\n\tc\udc80\u202e\u00a0é你") == (
        "a\\x1b[31mb\\r\n\tc\\udc80\\u202e\u00a0é你"
    )


def test_long_texts_lose_their_middle() -> None:
    assert shortened("one\n two", 20) == "one two"
    assert shortened("x" * 50 + "y" * 50, 13) == "xxxxx...yyyyy"


def test_answers_that_tell_nothing_of_the_model_stand_beside_the_accuracy() -> None:
    result = {"loss": 1.5, "accuracy": 0.25, "categories": {"correct": 5, "not_gradable": 15}}
    assert scores(result).startswith("loss 1.5, accuracy 0.25, 15 answers NOT GRADABLE")
    assert scores({"loss": 1.5, "accuracy": 0.25, "categories": {"correct": 5}}) == (
        "loss 1.5, accuracy 0.25"
    )
