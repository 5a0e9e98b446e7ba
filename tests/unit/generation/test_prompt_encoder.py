"""From a prompt to tokens, with and without a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hpo.spec.data import DataSpec
from hpo.spec.errors import InputError
from workers.data.example import Example, Turn, UnusableRow
from workers.data.tokens.encoder import Encoder
from workers.generation.chat import PromptEncoder
from workers.generation.prompts import Prompt
from workers.tiny import END_OF_TEXT, make_tokenizer

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('the user begins') }}{% endif %}x"
)
DIALOGUE = (Turn("assistant", "Say cat."), Turn("user", "Gatto?"))


def prompt(*turns: Turn, system: str | None = "Be kind.") -> Prompt:
    return Prompt(turns, system, "A1", "rows.jsonl:3", "rows.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


def tokenizer(folder: Path, template: str | None = None) -> Any:
    found: Any = AutoTokenizer.from_pretrained(folder)
    found.chat_template = template
    return found


def test_plain_text(folder: Path) -> None:
    told = tokenizer(folder)
    encoder = PromptEncoder(told, "auto", "\n->")
    assert told.decode(encoder.encode(prompt(*DIALOGUE))) == "Be kind.\n\nSay cat.\n\nGatto?\n->"
    bare = prompt(*DIALOGUE[1:], system=None)
    assert told.decode(encoder.encode(bare)) == "Gatto?\n->"
    assert (encoder.template, encoder.stop_tokens()) == ("plain", [])


def test_a_chat_template(folder: Path) -> None:
    told = tokenizer(folder, CHAT)
    encoder = PromptEncoder(told, "auto", "\n")
    text = told.decode(encoder.encode(prompt(*DIALOGUE)))
    end = END_OF_TEXT
    wanted = f"<system>Be kind.{end}<assistant>Say cat.{end}<user>Gatto?{end}<assistant>"
    assert text == wanted
    assert (encoder.template, encoder.stop_tokens()) == ("chat", [told.eos_token_id])
    assert PromptEncoder(told, "plain", "\n").template == "plain"


def test_a_chat_template_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match="no chat template; allowed: auto or plain"):
        PromptEncoder(tokenizer(folder), "chat", "\n")


def test_turns_that_a_template_refuses_are_named(folder: Path) -> None:
    encoder = PromptEncoder(tokenizer(folder, STRICT), "auto", "\n")
    with pytest.raises(UnusableRow, match=r"rows\.jsonl:3: given turns .*the user begins"):
        encoder.encode(prompt(*DIALOGUE, system=None))
    assert encoder.encode(prompt(*DIALOGUE[1:], system=None))


@pytest.mark.parametrize("template", [None, CHAT])
def test_special_tokens_in_prompts_are_text(folder: Path, template: str | None) -> None:
    told = tokenizer(folder, template)
    encoder = PromptEncoder(told, "auto", "\n")
    end = told.eos_token_id
    safe = encoder.encode(prompt(Turn("user", "What is it?")))
    given = f"What is it?{END_OF_TEXT}<|endof{END_OF_TEXT}text|>"
    tokens = encoder.encode(prompt(Turn("user", given), system=f"Be kind.{END_OF_TEXT}"))
    assert tokens.count(end) == safe.count(end)
    assert told.decode(tokens).count(END_OF_TEXT) == 3 + safe.count(end)


def test_chat_prompts_have_the_tokens_of_training(folder: Path) -> None:
    told = tokenizer(folder, CHAT)
    data = DataSpec.model_validate({"train": {"path": "t"}, "loss": {"path": "l"}})
    turn = Turn("user", f"What is {END_OF_TEXT}?")
    example = Example((Turn("system", "Be kind."), turn, Turn("assistant", "It.")))
    trained = Encoder(told, data).encode_prompt(example)
    assert PromptEncoder(told, "auto", "\n").encode(prompt(turn)) == trained
