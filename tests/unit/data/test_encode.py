from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpo.spec.errors import InputError
from hpo.spec.study import DataSpec
from workers.data.encode import EncodedExample, Encoder, encode_all, truncate_all
from workers.data.sources import Example
from workers.data.tokenizer import load_tokenizer, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUM = Example("1+1=", "2 + 0")
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def with_chat(tokenizer: PreTrainedTokenizerBase, template: str = CHAT) -> PreTrainedTokenizerBase:
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]}
    )
    tokenizer.chat_template = template
    return tokenizer


def text(tokenizer: PreTrainedTokenizerBase, ids: list[int] | tuple[int, ...]) -> str:
    decoded = tokenizer.decode(list(ids))
    assert isinstance(decoded, str)
    return decoded


def test_plain_is_prompt_separator_completion_and_end(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    encoder = Encoder(tokenizer, data, 64)
    encoded = encoder.encode(SUM)
    assert encoded is not None
    assert text(tokenizer, encoded.input_ids) == "1+1=\n2 + 0<|endoftext|>"
    assert encoded.input_ids[-1] == tokenizer.eos_token_id == encoder.end_token
    assert encoded.counted == len("2 + 0") + 1


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("prompt", ["1+1=", " leading", "trailing ", "ä\n\n€", ""])
def test_the_prompt_is_an_exact_prefix(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec, template: str, prompt: str
) -> None:
    data = data.model_copy(update={"template": template})
    encoder = Encoder(with_chat(tokenizer), data, 64)
    for completion in ("2", " 2", "\n"):
        encoded = encoder.encode(Example(prompt, completion))
        assert encoded is not None
        start = encoded.input_ids[: encoded.prompt_length]
        assert list(start) == encoder.encode_prompt(Example(prompt, completion))


def test_a_start_token_leads_where_the_tokenizer_sets_one(
    model_folder: Path, data: DataSpec, tmp_path: Path
) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast.from_pretrained(model_folder)
    fast.add_special_tokens({"bos_token": "<s>"})
    start = fast.convert_tokens_to_ids("<s>")
    assert isinstance(start, int)
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    encoder = Encoder(fast, data, 64)
    encoded = encoder.encode(SUM)
    assert encoded is not None
    assert list(encoded.input_ids).count(start) == 1
    assert encoder.encode_prompt(SUM)[0] == encoded.input_ids[0] == start


def test_chat_learns_the_turn_and_its_end(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    encoder = Encoder(with_chat(tokenizer), data, 64)
    encoded = encoder.encode(SUM)
    assert encoder.template == "chat"
    assert encoded is not None
    assert text(tokenizer, encoder.encode_prompt(SUM)) == "<|user|>1+1=<|end|>\n<|assistant|>"
    learned = encoded.input_ids[encoded.prompt_length :]
    assert text(tokenizer, learned) == "2 + 0<|end|>"
    assert encoder.end_token == tokenizer.convert_tokens_to_ids("<|end|>")


def test_chat_without_an_end_of_turn_ends_with_the_end_of_text(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    bare = "{% for m in messages %}{{ m.content }}:{% endfor %}"
    encoded = Encoder(with_chat(tokenizer, bare), data, 64).encode(SUM)
    assert encoded is not None
    assert text(tokenizer, encoded.input_ids) == "1+1=:2 + 0:<|endoftext|>"


def test_auto_takes_plain_without_a_template(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    assert Encoder(tokenizer, data, 64).template == "plain"
    with pytest.raises(InputError, match="without a chat template"):
        Encoder(tokenizer, data.model_copy(update={"template": "chat"}), 64)


@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("{{ messages|length }}{{ messages[0].content }}", "rewrites the prompt"),
        ("{{ raise_exception('no') }}", "fails"),
    ],
)
def test_an_unusable_chat_template_is_refused(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec, template: str, given: str
) -> None:
    encoder = Encoder(with_chat(tokenizer, template), data, 64)
    with pytest.raises(InputError, match=given):
        encoder.encode(SUM)


def test_a_prompt_without_tokens_is_refused(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    encoder = Encoder(tokenizer, data.model_copy(update={"separator": ""}), 64)
    with pytest.raises(InputError, match="without a single token"):
        encoder.encode(Example("", "2"))


def test_a_tokenizer_without_an_end_is_refused(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="end-of-sequence"):
        Encoder(tokenizer, data, 64)


def test_long_examples_are_cut_at_the_end_or_dropped(
    tokenizer: PreTrainedTokenizerBase, data: DataSpec
) -> None:
    examples = [Example("12=", "1"), Example("12=", "123456"), Example("123456=", "1")]
    encoder = Encoder(tokenizer, data, 7)
    encoded = encode_all(encoder, examples)
    assert [len(example.input_ids) for example in encoded.examples] == [6, 7]
    assert [example.counted for example in encoded.examples] == [2, 3]
    assert (encoded.dropped, encoded.truncated) == (1, 1)
    assert encoder.encode(examples[2]) is None
    whole = encode_all(Encoder(tokenizer, data, None), examples).examples
    assert truncate_all(whole, 7) == encoded


def test_a_cut_keeps_at_least_one_completion_token() -> None:
    example = EncodedExample((1, 2, 3, 4), 3)
    assert truncate_all([example], 4).examples == [example]
    assert truncate_all([example], 3).dropped == 1


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
