"""How answers are decoded: greedily, or drawn with seeds of their own; where they end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from evaluation_lab import MAX_NEW_TOKENS, PROMPTS, Lab, answers, closing, texts_of

from workers.evaluation.engines.engines import EvaluationEngines

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SAMPLED = {"temperature": 1.0, "samples": 3, "seed": 5}
# More prompts than one step of the engine reads, so that some would be read in parts.
MANY = [[(7 * row + 3 * column) % 251 for column in range(100 + row)] for row in range(40)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def engines(lab: Lab) -> Iterator[EvaluationEngines]:
    with closing(lab.engines()) as engines:
        engines.load_weights(None)
        yield engines


def test_samples_are_drawn_alike_each_time(engines: EvaluationEngines) -> None:
    first = answers(engines, MANY, **SAMPLED)
    assert len(first) == 120
    assert len({answer.token_ids for answer in first.values()}) > 100
    assert answers(engines, MANY, **SAMPLED) == first
    other = answers(engines, MANY, **{**SAMPLED, "seed": 6})
    assert not set(texts_of(other)) & set(texts_of(first))


def test_samples_do_not_depend_on_what_else_is_asked(engines: EvaluationEngines) -> None:
    """One sample of the first few items is the same without the other samples and items."""
    first = answers(engines, MANY, **SAMPLED)
    fewer = answers(engines, MANY[:5], temperature=1.0, seed=5)
    assert fewer == {(item, 0): first[item, 0] for item in range(5)}


def test_samples_are_drawn_alike_for_every_checkpoint(lab: Lab, engines: EvaluationEngines) -> None:
    """In any order of checkpoints; the same weights under another name draw the same."""
    found = {}
    one, two, again = lab.full(61), lab.full(62), lab.altered("again", lambda tensors: None)
    for name, checkpoint in {"base": None, "one": one, "two": two, "again": again}.items():
        engines.load_weights(checkpoint)
        found[name] = answers(engines, **SAMPLED)
    assert found["again"] == found["base"] != found["one"] != found["two"]
    engines.load_weights(one)
    assert answers(engines, **SAMPLED) == found["one"]


def test_top_p_draws_from_the_likeliest_alone(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    greedy = answers(engines)
    narrow = answers(engines, temperature=1.0, top_p=1e-6, samples=2)
    assert {answer.text for answer in greedy.values()} == {
        answer.text for answer in narrow.values()
    }


def test_greedy_answers_are_the_same_however_they_are_batched(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    together = answers(engines, MANY)
    alone = {(item, 0): answers(engines, [MANY[item]])[0, 0] for item in range(0, 40, 8)}
    assert alone == {place: together[place] for place in alone}


def test_generation_ends_at_a_stop_token(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    whole = answers(engines)[0, 0]
    assert whole.truncated
    assert len(whole.token_ids) == MAX_NEW_TOKENS
    stop = whole.token_ids[3]
    stopped = answers(engines, PROMPTS[:1], stop_token_ids=[stop])[0, 0]
    assert stopped.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
    assert not stopped.truncated


def test_generation_ends_at_a_stop_text_which_is_no_part_of_it(engines: EvaluationEngines) -> None:
    engines.load_weights(None)
    # One token is one byte here; take a character that is one byte, too.
    item, whole = next(
        (item, answer) for (item, _), answer in answers(engines).items() if _ascii(answer.text)
    )
    stop = next(character for character in whole.text if character.isascii())
    stopped = answers(engines, [PROMPTS[item]], stop=[stop])[0, 0]
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert not stopped.truncated


def _ascii(text: str) -> bool:
    return any(character.isascii() for character in text)
