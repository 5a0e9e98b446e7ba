"""What holds for every text, turn and layout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import encoding_lab as lab
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.example import Example, Turn
from workers.data.tokens.encoder import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from workers.data.tokens.encoded import EncodedExample

MARKS = [
    "<|end|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|user|>",
    "<s>",
    "<|",
    "|>",
    "<|im_end",
    "\n\n",
]
TEXTS = st.lists(st.text(max_size=8) | st.sampled_from(MARKS), max_size=5).map("".join)
# What each layout lets follow an answer, up to the token that ends it.
ENDS = {
    "plain": "<|endoftext|>",
    "chat": "<|end|>",
    "chatml": "<|im_end|>",
    "problem-solution": "<|endoftext|>",
    "competition": "\n<|im_end|>",
    "{system_prompt}\n\n{prompt}\n{completion}!<|end|>\n": "!<|end|>",
}
LOSS_ON = st.sampled_from(["completion", "assistant", "all"])
FEW_SHOT = st.sampled_from([None, {"count": 2}, {"origin": "train"}])


@st.composite
def examples(draw: st.DrawFn) -> Example:
    rounds = draw(st.integers(0, 2))
    roles: list[Any] = ["user", "assistant"] * rounds + ["user", "assistant"]
    if draw(st.booleans()):
        roles.insert(0, "system")
    turns = tuple(Turn(role, draw(TEXTS)) for role in roles)
    shots = tuple(draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=3)))
    quality = draw(st.none() | st.floats(0, 1))
    return Example(turns, shots=shots, quality=quality)


@pytest.fixture(scope="module")
def make(model_folder: Path) -> Any:
    tokenizer = lab.with_special(
        lab.with_start(model_folder), *lab.SPECIAL, *lab.CHATML, template=lab.CHAT
    )

    @cache
    def encoder(template: str, loss_on: str, few_shot: str) -> Encoder:
        data = lab.spec(template=template, loss_on=loss_on, few_shot=json.loads(few_shot))
        return Encoder(tokenizer, data, shots=[Example.pair("2+2<|end|>", "4")])

    return lambda template, loss_on, few_shot: (
        tokenizer,
        encoder(template, loss_on, json.dumps(few_shot)),
    )


def learned_turns(example: Example, template: str, loss_on: str) -> list[str]:
    """The texts that must be learned, each with its end."""
    earlier = [turn.content for turn in example.turns[:-1] if turn.role == "assistant"]
    every = loss_on == "assistant" and template in ("plain", "chat", "chatml")
    return [text + ENDS[template] for text in (*(earlier if every else ()), example.completion)]


def check_spans(encoded: EncodedExample) -> None:
    ends = [0]
    for start, end in encoded.learned:
        assert ends[-1] < start < end or ends[-1] == 0 < start < end
        ends.append(end)
    assert ends[-1] == len(encoded.input_ids)
    assert encoded.counted == sum(end - start for start, end in encoded.learned)


@settings(max_examples=150, deadline=None)
@given(examples(), st.sampled_from(list(ENDS)), LOSS_ON, FEW_SHOT)
def test_what_is_learned_is_the_answer_and_its_end(
    make: Any, example: Example, template: str, loss_on: str, few_shot: dict[str, Any] | None
) -> None:
    tokenizer, encoder = make(template, loss_on, few_shot)
    example = lab.fitting(example, template)
    encoded = encoder.encode_whole(example)
    check_spans(encoded)
    assert encoded.input_ids[-1] == encoder.end_token
    prompt = encoder.encode_prompt(example)
    assert list(encoded.input_ids[: len(prompt)]) == prompt
    assert lab.text(tokenizer, prompt) == encoder.prompt_text(example)
    if loss_on == "all":
        assert encoded.learned == ((1, len(encoded.input_ids)),)
    else:
        assert lab.learned(tokenizer, encoded) == learned_turns(example, template, loss_on)
    answer = lab.text(tokenizer, encoded.input_ids[len(prompt) :])
    assert answer == example.completion + ENDS[template]


@settings(max_examples=60, deadline=None)
@given(st.lists(examples(), max_size=4), st.sampled_from(list(ENDS)), LOSS_ON, FEW_SHOT)
def test_many_are_encoded_like_each(
    make: Any, rows: list[Example], template: str, loss_on: str, few_shot: dict[str, Any] | None
) -> None:
    _, encoder = make(template, loss_on, few_shot)
    rows = [lab.fitting(row, template) for row in rows]
    assert list(encoder.encode_many(rows)) == [encoder.encode_whole(row) for row in rows]


def controls(tokenizer: PreTrainedTokenizerBase, encoded: EncodedExample) -> list[int]:
    special = set(tokenizer.all_special_ids)
    return [token for token in encoded.input_ids if token in special]


@settings(max_examples=60, deadline=None)
@given(examples(), st.sampled_from(list(ENDS)), FEW_SHOT)
def test_data_brings_no_control_token(
    make: Any, example: Example, template: str, few_shot: dict[str, Any] | None
) -> None:
    tokenizer, encoder = make(template, "completion", few_shot)
    example = lab.fitting(example, template)
    tame = Example(tuple(Turn(turn.role, turn.content and "x") for turn in example.turns))
    encoded, wanted = encoder.encode_whole(example), encoder.encode_whole(tame)
    assert controls(tokenizer, encoded) == controls(tokenizer, wanted)


@settings(max_examples=60, deadline=None)
@given(TEXTS.filter(bool), st.sampled_from(list(ENDS)), LOSS_ON)
def test_a_text_alone_is_learned_whole(
    make: Any, content: str, template: str, loss_on: str
) -> None:
    tokenizer, encoder = make(template, loss_on, None)
    encoded = encoder.encode_whole(Example((Turn("assistant", content),)))
    assert lab.text(tokenizer, encoded.input_ids) == f"<s>{content}<|endoftext|>"
    assert encoded.learned == ((1, len(encoded.input_ids)),)
