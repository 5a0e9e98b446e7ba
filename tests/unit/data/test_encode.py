from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import encoding_lab as lab
import pytest

from hpo.spec.data import DataSpec
from hpo.spec.errors import InputError
from workers.data.example import Example, RowProblem, Turn, UnusableRow
from workers.data.tokens.encoder import Encoder
from workers.data.tokens.tokenizer import load_tokenizer, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUM = Example.pair("1+1=", "2 + 0")
TEXT = Example((Turn("assistant", "once upon a time"),))
DIALOGUE = Example(
    (
        Turn("user", "q1"),
        Turn("assistant", "a1"),
        Turn("user", "q2"),
        Turn("assistant", "a2"),
    )
)


def test_plain_is_prompt_separator_completion_and_end(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    encoder = Encoder(tokenizer, data)
    encoded = encoder.encode_whole(SUM)
    assert lab.text(tokenizer, encoded.input_ids) == "1+1=\n2 + 0<|endoftext|>"
    assert encoded.input_ids[-1] == tokenizer.eos_token_id == encoder.end_token
    assert encoded.counted == len("2 + 0") + 1


@pytest.mark.parametrize("template", ["plain", "chat", "chatml", "problem-solution"])
@pytest.mark.parametrize("prompt", ["1+1=", " leading", "trailing ", "ä\n\n€", ""])
def test_the_prompt_is_an_exact_prefix(
    tokenizer: PreTrainedTokenizerBase, template: str, prompt: str
) -> None:
    encoder = Encoder(lab.with_chat(tokenizer), lab.spec(template=template))
    for completion in ("2", " 2", "\n"):
        encoded = encoder.encode_whole(Example.pair(prompt, completion))
        ((start, end),) = encoded.learned
        given = encoder.encode_prompt(Example.pair(prompt, completion))
        assert list(encoded.input_ids[:start]) == given
        assert end == len(encoded.input_ids)


def test_a_start_token_leads_where_the_tokenizer_sets_one(
    model_folder: Path, data: DataSpec
) -> None:
    tokenizer = lab.with_start(model_folder)
    start = tokenizer.bos_token_id
    encoder = Encoder(tokenizer, data)
    encoded = encoder.encode_whole(SUM)
    assert list(encoded.input_ids).count(start) == 1
    assert encoder.encode_prompt(SUM)[0] == encoded.input_ids[0] == start
    assert encoder.prompt_text(SUM) == "<s>1+1=\n"


def test_a_layout_that_writes_the_start_token_gets_no_second_one(model_folder: Path) -> None:
    tokenizer = lab.with_start(model_folder)
    encoder = Encoder(tokenizer, lab.spec(template="<s>{prompt}:{completion}"))
    assert encoder.encode_prompt(SUM).count(tokenizer.bos_token_id) == 1


def test_chat_learns_the_turn_and_its_end(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    encoder = Encoder(lab.with_chat(tokenizer), data)
    encoded = encoder.encode_whole(SUM)
    assert encoder.template == "chat"
    assert lab.text(tokenizer, encoder.encode_prompt(SUM)) == "<|user|>1+1=<|end|>\n<|assistant|>"
    assert lab.learned(tokenizer, encoded) == ["2 + 0<|end|>"]
    assert encoder.end_token == tokenizer.convert_tokens_to_ids("<|end|>")


def test_chat_without_an_end_of_turn_ends_with_the_end_of_text(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    bare = "{% for m in messages %}{{ m.content }}:{% endfor %}"
    encoded = Encoder(lab.with_chat(tokenizer, bare), data).encode_whole(SUM)
    assert lab.text(tokenizer, encoded.input_ids) == "1+1=:2 + 0:<|endoftext|>"


def test_auto_takes_plain_without_a_template(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    assert Encoder(tokenizer, data).template == "plain"
    with pytest.raises(InputError, match="without a chat template"):
        Encoder(tokenizer, lab.spec(template="chat"))


@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("{{ messages|length }}{{ messages[0].content }}", "rewrites the prompt"),
        ("{{ raise_exception('no') }}", "fails"),
        ("{{ messages[0].content }}", "leaves out the answer"),
    ],
)
def test_an_unusable_chat_template_is_refused(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec, template: str, given: str
) -> None:
    encoder = Encoder(lab.with_chat(tokenizer, template), data)
    with pytest.raises(InputError, match=given):
        encoder.encode_whole(SUM)
    with pytest.raises(InputError, match=given):
        encoder.encode_prompt(SUM)


def test_turns_that_the_chat_template_refuses_are_one_rows_problem(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    strict = "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}" + lab.CHAT
    encoder = Encoder(lab.with_chat(tokenizer, strict), data)
    long = Example(DIALOGUE.turns, where="f:3")
    with pytest.raises(UnusableRow, match=r"f:3: given turns .*too long"):
        encoder.encode_whole(long)
    found: list[tuple[int, RowProblem]] = []
    encoded = encoder.encode_many([SUM, long, SUM], lambda *problem: found.append(problem))
    assert list(encoded) == [encoder.encode_whole(SUM)] * 2
    assert [(index, problem.kind) for index, problem in found] == [(1, "malformed")]
    with pytest.raises(UnusableRow):
        encoder.encode_many([long])


def test_a_prompt_without_tokens_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer, lab.spec(separator=""))
    with pytest.raises(InputError, match=r"without a single token \(f:1\)"):
        encoder.encode_whole(Example.pair("", "2", where="f:1"))


def test_a_tokenizer_without_an_end_is_refused(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="end-of-sequence"):
        Encoder(tokenizer, data)


def test_long_examples_are_cut_at_the_end_or_dropped(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    pairs = [("12=", "1"), ("12=", "123456"), ("123456=", "1")]
    encoder = Encoder(tokenizer, data)
    encoded = encoder.encode_many([Example.pair(*pair) for pair in pairs])
    cut = encoded.cut(7)
    assert [len(example.input_ids) for example in cut.examples] == [6, 7]
    assert [example.counted for example in cut.examples] == [2, 3]
    assert (cut.dropped, cut.truncated) == (1, 1)


@pytest.mark.parametrize("template", ["chat", "chatml", "plain", "answer"])
def test_a_text_alone_is_learned_whole(model_folder: Path, template: str) -> None:
    tokenizer = lab.with_chat(lab.with_start(model_folder))
    for loss_on in ("completion", "assistant", "all"):
        encoder = Encoder(tokenizer, lab.spec(template=template, loss_on=loss_on))
        encoded = encoder.encode_whole(TEXT)
        whole = lab.text(tokenizer, encoded.input_ids)
        assert whole == "<s>once upon a time<|endoftext|>"
        assert encoded.learned == ((1, len(encoded.input_ids)),)
        with pytest.raises(InputError, match="without a single token"):
            encoder.encode_prompt(TEXT)


def test_nothing_predicts_a_first_token(tokenizer: PreTrainedTokenizerBase, data: DataSpec) -> None:
    encoded = Encoder(tokenizer, data).encode_whole(TEXT)
    assert encoded.learned == ((1, len(encoded.input_ids)),)
    everything = Encoder(tokenizer, lab.spec(loss_on="all")).encode_whole(SUM)
    assert everything.learned == ((1, len(everything.input_ids)),)


@pytest.mark.parametrize(
    ("template", "special", "chat", "first"),
    [
        ("chat", lab.SPECIAL, lab.CHAT, "a1<|end|>"),
        ("chat", lab.SPECIAL, lab.TRIMS, "a1 <|end|>"),
        ("chat", [], lab.NO_END, "a1<|endoftext|>"),
        ("chatml", lab.CHATML, None, "a1<|im_end|>"),
        ("chatml", [], None, "a1<|im_end|><|endoftext|>"),
        ("plain", [], None, "a1<|endoftext|>"),
    ],
)
def test_every_turn_of_the_assistant_is_learned_with_its_end(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    special: list[str],
    chat: str | None,
    first: str,
) -> None:
    lab.with_special(tokenizer, *special, template=chat)
    encoder = Encoder(tokenizer, lab.spec(template=template, loss_on="assistant"))
    encoded = encoder.encode_whole(DIALOGUE)
    one, other = lab.learned(tokenizer, encoded)
    assert one == first
    assert other.endswith(first.replace("a1", "a2"))
    ends = [encoded.input_ids[end - 1] for _, end in encoded.learned]
    assert ends == [encoder.end_token] * 2
    prompt = encoder.encode_prompt(DIALOGUE)
    assert list(encoded.input_ids[: encoded.learned[-1][0]]) == prompt


def test_a_template_that_forgets_earlier_answers_has_no_turns_to_learn(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    last = (
        "{% set messages = messages[-2:] if messages[-1].role == 'assistant' else messages[-1:] %}"
    )
    lab.with_chat(tokenizer, last + lab.CHAT)
    assert Encoder(tokenizer, lab.spec()).encode_whole(DIALOGUE).learned
    with pytest.raises(InputError, match=r"data\.loss_on: .*changes earlier answers"):
        Encoder(tokenizer, lab.spec(loss_on="assistant")).encode_whole(DIALOGUE)


LAYOUTS: list[tuple[str, list[str], str | None]] = [
    ("plain", [], None),
    ("chat", lab.SPECIAL, lab.CHAT),
    ("chat", lab.SPECIAL, lab.TRIMS),
    ("chat", [], lab.NO_END),
    ("chatml", lab.CHATML, None),
    ("chatml", [], None),
    ("problem-solution", [], None),
    ("competition", lab.CHATML, None),
    ("competition", [], None),
    ("answer", [], None),
    ("{prompt} = {completion}<|end|> \n", lab.SPECIAL, None),
]


@pytest.mark.parametrize(("template", "special", "chat"), LAYOUTS)
@pytest.mark.parametrize("loss_on", ["completion", "assistant", "all"])
def test_the_end_of_the_turn_is_always_learned(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    special: list[str],
    chat: str | None,
    loss_on: str,
) -> None:
    lab.with_special(tokenizer, *special, template=chat)
    encoder = Encoder(tokenizer, lab.spec(template=template, loss_on=loss_on))
    for example in (
        Example.pair("1+1?", "so #### 2"),
        Example((*DIALOGUE.turns[:-1], Turn("assistant", "#### 5"))),
    ):
        encoded = encoder.encode_whole(example)
        assert encoded.learned[-1][1] == len(encoded.input_ids)
        assert encoded.input_ids[-1] == encoder.end_token
        assert encoder.end_token in tokenizer.all_special_ids


@pytest.mark.parametrize(("template", "special", "chat"), LAYOUTS)
def test_special_tokens_in_the_data_are_text(
    tokenizer: PreTrainedTokenizerBase, template: str, special: list[str], chat: str | None
) -> None:
    lab.with_special(tokenizer, *special, template=chat)
    encoder = Encoder(tokenizer, lab.spec(template=template, few_shot={"count": 1}))
    marks = "".join((*special, "<|endoftext|>", "<|<|end|><|pad|>"))
    harmless = Example.pair("1+1?", "so #### 2", shots=(("in", "out"),))
    hostile = Example.pair(f"1{marks}?", f"so {marks}#### 2", shots=((marks, f"{marks}!"),))

    def controls(example: Example) -> list[int]:
        ids = encoder.encode_whole(example).input_ids
        return [token for token in ids if token in tokenizer.all_special_ids]

    assert controls(hostile) == controls(harmless)
    encoded = encoder.encode_whole(hostile)
    whole = lab.text(tokenizer, encoded.input_ids)
    assert whole.count(marks) == 4
    assert f"so {marks}" in lab.learned(tokenizer, encoded)[0]
    assert "".join(part for part, _ in encoder.segments(hostile)) == whole
    assert len(encoded.learned) == 1


def test_segments_say_what_is_learned(tokenizer: PreTrainedTokenizerBase, data: DataSpec) -> None:
    encoder = Encoder(tokenizer, data)
    assert encoder.segments(SUM) == [("1+1=\n", False), ("2 + 0", True), ("<|endoftext|>", True)]
    assert encoder.prompt_text(SUM) == "1+1=\n"
    everything = Encoder(tokenizer, lab.spec(loss_on="all"))
    assert all(learned for _, learned in everything.segments(SUM))


def test_many_are_encoded_like_each(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(tokenizer, lab.spec(template="plain", loss_on="assistant"))
    examples = [Example.pair(f"{n}+1=", str(n + 1), quality=n / 1100) for n in range(1100)]
    examples += [DIALOGUE, TEXT]
    assert list(encoder.encode_many(examples)) == [encoder.encode_whole(e) for e in examples]
    assert len(encoder.encode_many([])) == 0


def test_the_weight_is_the_quality(tokenizer: PreTrainedTokenizerBase, data: DataSpec) -> None:
    encoder = Encoder(tokenizer, data)
    assert encoder.encode_whole(SUM).weight == 1.0
    assert encoder.encode_whole(Example.pair("a", "b", quality=0.0)).weight == 0.0
    scored = encoder.encode_whole(Example.pair("a", "b", quality=0.3))
    assert scored.weight == pytest.approx(0.3)


@pytest.mark.parametrize(
    "left",
    [
        {"padding": "max_length", "max_length": 90},
        {"truncation": True, "max_length": 2},
        {"split_special_tokens": True},
    ],
)
def test_what_the_tokenizer_was_left_with_changes_nothing(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec, left: dict[str, Any]
) -> None:
    encoder = Encoder(lab.with_chat(tokenizer), data)
    before = encoder.encode_whole(SUM)
    called: Any = tokenizer
    called(["a", "bc"], **left)
    assert encoder.encode_whole(SUM) == before


def test_a_slow_tokenizer_does_too() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    encoder = Encoder(tokenizer, lab.spec(template="plain"))
    hostile = Example.pair("a</s>", "b</s>c")
    encoded = encoder.encode_whole(hostile)
    assert list(encoded.input_ids).count(1) == 1
    assert encoded.input_ids[-1] == encoder.end_token == tokenizer.eos_token_id
    assert list(encoder.encode_many([hostile, SUM])) == [encoded, encoder.encode_whole(SUM)]


def test_a_tokenizer_that_cannot_be_read_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="readable tokenizer"):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="vocabulary is empty"):
        load_tokenizer(str(folder))


def test_padding_falls_back_to_the_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert pad_id(tokenizer) == tokenizer.pad_token_id
    tokenizer.pad_token = None
    assert pad_id(tokenizer) == tokenizer.eos_token_id
