"""The base model's tokenizer."""

from __future__ import annotations

import textwrap

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hpo.spec.errors import InputError


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder or of a hub name.

    Raises InputError when there is none that can be read.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    # tokenizers raises plain Exception for a tokenizer.json that it cannot read.
    except Exception as error:
        raise _refusal(path, textwrap.shorten(str(error), 300)) from error
    # Where the files are missing, transformers makes a tokenizer without a vocabulary.
    if not tokenizer("a")["input_ids"] or len(tokenizer) == len(tokenizer.all_special_ids):
        raise _refusal(path, "its vocabulary is empty")
    return tokenizer


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Token id to pad with; masked everywhere, so any id serves."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def _refusal(path: str, reason: str) -> InputError:
    return InputError(
        f"model.path: given {path!r} without a readable tokenizer ({reason}); "
        "allowed: a folder with tokenizer files, or a hub name in reach"
    )
