"""Tokenizers, templates and helpers for the tests of encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.spec import templates
from hpo.spec.data import DataSpec
from hpo.spec.sources import EvaluationData, TrainData
from workers.data.example import Example
from workers.data.tokens.encoded import EncodedExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_END = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TRIMS = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content | trim }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
CHATML = ["<|im_start|>", "<|im_end|>"]


def with_special(
    tokenizer: PreTrainedTokenizerBase, *names: str, template: str | None = None
) -> PreTrainedTokenizerBase:
    tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
    tokenizer.chat_template = template
    return tokenizer


def with_chat(tokenizer: PreTrainedTokenizerBase, template: str = CHAT) -> PreTrainedTokenizerBase:
    return with_special(tokenizer, *SPECIAL, template=template)


def with_start(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer that puts <s> before every text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    fast.add_special_tokens({"bos_token": "<s>"})
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", fast.convert_tokens_to_ids("<s>"))]
    )
    tokenizer: PreTrainedTokenizerBase = fast
    return tokenizer


def spec(train: dict[str, Any] | None = None, **fields: Any) -> DataSpec:
    source = TrainData(path="unread", **{"examples": "shots", **(train or {})})
    if templates.layout_text(fields.get("template", "auto")) is not None:
        # Refused there, as it would be the same.
        fields = {k: "completion" if v == "assistant" else v for k, v in fields.items()}
    return DataSpec(train=source, loss=EvaluationData(path="unread"), **fields)


def text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    decoded = tokenizer.decode(list(ids))
    assert isinstance(decoded, str)
    return decoded


def learned(tokenizer: PreTrainedTokenizerBase, encoded: EncodedExample) -> list[str]:
    """The text of each learned span."""
    return [text(tokenizer, encoded.input_ids[a:b]) for a, b in encoded.learned]


def fitting(example: Example, template: str) -> Example:
    """The example without a system prompt of its own, where the template has no place for it."""
    layout = templates.layout_text(template)
    if layout is None or "{system_prompt}" in layout:
        return example
    return replace(example, turns=tuple(t for t in example.turns if t.role != "system"))
