"""What is refused, and that verdicts depend on nothing but the order."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from hpo.spec.checks import Checks, Opening, Repeated, Skeleton
from workers.generation.checks import Candidate, ResponseChecks

GOOD = "The article agrees with its noun, so you say la casa and not il casa."
OPENINGS = ("First", "Next", "Then", "Now", "Later", "Again", "Still", "Maybe")


def given(text: str, *, level: str = "A1", prompt: str = "", ended: str = "stop") -> Candidate:
    return Candidate(text, prompt, level, ended, f"prompts.jsonl:{len(text)}")


def reason(text: str, checks: ResponseChecks | None = None, **known: Any) -> str | None:
    refusal = (checks or ResponseChecks(Checks())).refusal(given(text, **known))
    return None if refusal is None else refusal.reason


def accepted(*texts: str, checks: Checks | None = None, level: str = "A1") -> ResponseChecks:
    kept = ResponseChecks(checks or Checks())
    for text in texts:
        kept.accept(given(text, level=level))
    return kept


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (GOOD, None),
        ("", "empty"),
        ("Yes.", "too short"),
        ("Well,  AS an\nai language model I cannot know.", "phrase"),
        ("As an aide to memory, think of the ending in a.", None),
        ("La casa è bella.\n" * 4, "repetition"),
        ("He said " + "that I am very happy " * 5, "repetition"),
        ("Bene, " + "ah" * 12, "repetition"),
        ("Fill the blank: Il gatto ____________________ sul letto.", None),
        ("Si dice così: hahahahaha, che bello scherzo!", None),
    ],
)
def test_a_response_is_looked_at_alone(text: str, wanted: str | None) -> None:
    assert reason(text) == wanted


def test_a_truncated_response_is_refused_unless_that_is_allowed() -> None:
    assert reason(GOOD, ended="length") == "truncated"
    assert reason(GOOD, ResponseChecks(Checks(allow_truncated=True)), ended="length") is None


def test_a_copy_of_the_prompt_is_refused() -> None:
    prompt = "How do I say that the cat is on the table in the kitchen of my house?"
    assert reason(prompt, prompt=prompt) == "copy of the prompt"
    assert reason(prompt.upper() + " Well.", prompt=prompt) == "copy of the prompt"
    answer = "You say: il gatto è sul tavolo nella cucina di casa mia. Try it with the dog now!"
    assert reason(answer, prompt=prompt) is None


def test_repeated_responses_are_refused_at_every_level() -> None:
    kept = accepted(GOOD)
    assert reason(f"  {GOOD.upper()}!", kept, level="C2") == "repeated"
    almost = GOOD.replace("la casa and", "la bella casa and")
    low = accepted(GOOD, checks=Checks(repeated=Repeated(similarity=0.6)))
    assert reason(almost, low) == "almost repeated"
    assert reason(almost, kept) is None
    assert reason(GOOD, accepted(GOOD, checks=Checks(repeated=None, skeleton=None))) is None


def test_openings_are_counted_by_level() -> None:
    checks = Checks(opening=Opening(words=3, number=2, share=0.0), skeleton=None)
    kept = accepted(
        "In this text you say one thing that is right.",
        "In this text nothing else needs a single correction today.",
        checks=checks,
    )
    again = "in THIS text, finally, we find the future tense of essere."
    assert reason(again, kept) == "template-like opening"
    assert reason(again, kept, level="C2") is None
    assert reason("In that text we find the future tense of essere.", kept) is None


def test_a_share_of_many_may_open_alike() -> None:
    checks = Checks(opening=Opening(words=1, number=1, share=0.25), skeleton=None, repeated=None)
    kept = accepted(*(f"{word} comes a sentence of its own." for word in OPENINGS), checks=checks)
    # Two of eight may share an opening.
    assert reason("First another one, quite different.", kept) is None
    kept.accept(given("First another one, quite different."))
    kept.accept(given("First a third one, different again."))
    assert reason("First a fourth one, not like them.", kept) == "template-like opening"


def test_names_and_numbers_do_not_make_a_new_response() -> None:
    checks = Checks(opening=None, repeated=None, skeleton=Skeleton(number=1))
    kept = accepted(
        'This A1-level text shows that Marco knows 12 words like "casa".', checks=checks
    )
    other = "This B2-level text shows that Maria Rossi knows 1,300 words like «l'albero»."
    assert reason(other, kept) == "template-like skeleton"
    assert reason(other.replace("shows", "proves"), kept) is None


def test_what_is_switched_off_is_not_looked_for() -> None:
    everything = Checks(
        min_characters=0,
        allow_truncated=True,
        phrases=[],
        repetition=None,
        copy_of_prompt=None,
        repeated=None,
        opening=None,
        skeleton=None,
    )
    kept = accepted("x", checks=everything)
    assert reason("x", kept, prompt="x", ended="length") is None
    assert reason("", kept) == "empty"


def test_the_same_order_gives_the_same_verdicts() -> None:
    texts = _texts(400)
    whole, verdicts = ResponseChecks(Checks()), []
    for text in texts:
        verdicts.append(reason(text, whole))
        if verdicts[-1] is None:
            whole.accept(given(text))
    assert {None, "repeated", "almost repeated", "template-like opening"} <= set(verdicts)
    half = accepted(*(t for t, v in zip(texts[:200], verdicts[:200], strict=True) if v is None))
    for text, verdict in zip(texts[200:], verdicts[200:], strict=True):
        assert reason(text, half) == verdict
        if verdict is None:
            half.accept(given(text))


def _texts(count: int) -> list[str]:
    """Sentences of few words, some of them twice or almost."""
    draw = random.Random(3)
    words = [f"w{number}" for number in range(60)]
    texts: list[str] = []
    for _ in range(count):
        fresh = " ".join(draw.choices(words, k=20))
        kind = draw.random()
        if texts and kind < 0.1:
            fresh = draw.choice(texts)
        elif texts and kind < 0.2:
            fresh = draw.choice(texts) + " indeed"
        elif kind < 0.4:
            fresh = f"this text shows that you know {fresh}"
        texts.append(fresh)
    return texts


def test_thousands_of_responses_are_checked_in_seconds() -> None:
    draw = random.Random(1)
    words = [f"word{number}" for number in range(5000)]
    kept = ResponseChecks(Checks())
    started = time.monotonic()
    for _ in range(500):
        text = " ".join(draw.choices(words, k=120))
        assert reason(text, kept) is None
        kept.accept(given(text))
    assert (time.monotonic() - started) * 10 < 60
