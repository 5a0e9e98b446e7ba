from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from objective_lab import (
    CPU,
    PAD,
    configuration,
    gradient,
    learned,
    load,
    losses,
    negative_log_likelihoods,
    packed,
    parts,
    total,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from workers.data.batches.collate import collate
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import InvalidTrial
from workers.trial.loop.objective.code_blocks import CodeBlocks, code_spans
from workers.trial.loop.objective.objective import Objective

WEIGHT = 0.3
EOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load(base)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def code(tokenizer: Any) -> CodeBlocks:
    return CodeBlocks(tokenizer)


def example(tokenizer: Any, prompt: str, answer: str, weight: float = 1.0) -> EncodedExample:
    asked, told = (tokenizer.encode(text) for text in (prompt, answer))
    return EncodedExample.completion_only((*asked, *told, 256), len(asked), weight)


@pytest.fixture(scope="module")
def step(tokenizer: Any) -> list[EncodedExample]:
    """Code and prose, prose alone, code alone, both again, two blocks, no code, too little."""
    pairs = [
        ("Q: ", "So:\n```py\nx=1\n```\nok"),
        ("Question? ", "none"),
        ("```\n", "x=2"),
        ("Q: ", "```\nx=3\n```"),
        ("A", "a\n```\ny\n```\nb\n~~~c\nzz\n~~~\n"),
        ("Q: ", "z\n```\n```\n"),
        ("Q: ", "z\n```\n\n```\n"),
    ]
    return [
        example(tokenizer, prompt, answer, place / 3)
        for place, (prompt, answer) in enumerate(pairs)
    ]


TEXTS = [
    ("a\n```python\nx = 1\ny\n```\nb", "x = 1\ny\n"),
    ("```\nopen\n\n", "open\n\n"),
    ("a ```x``` b\n``` `` `\n", ""),
    ("1. so\n   ```\n   x\n   ```\nz", "   x\n"),
    ("````\n```\n````\nz", "```\n"),
    ("~~~\n```\nx\n~~~\n```\ny\n```", "```\nx\ny\n"),
    ("```\na\r\n```\r\nz\n```\nb\n", "a\r\nb\n"),
    ("```\n```\nz", ""),
    ("```", ""),
    ("z\n```", ""),
    ("é\n```\né→\n```\né", "é→\n"),
]


@pytest.mark.parametrize(("text", "wanted"), TEXTS)
def test_code_lies_between_fences(text: str, wanted: str) -> None:
    assert "".join(text[start:end] for start, end in code_spans(text)) == wanted


@pytest.mark.parametrize(("text", "wanted"), TEXTS)
def test_bytes_of_code_are_found(tokenizer: Any, code: CodeBlocks, text: str, wanted: str) -> None:
    ids = tokenizer.encode(text)
    mask = code.mask(EncodedExample(ids, ((1, len(ids)),)))
    assert mask.dtype == np.bool_
    assert len(mask) == len(ids)
    assert tokenizer.decode(np.array(ids)[mask].tolist()) == wanted


def test_answers_and_what_follows_special_tokens_begin_a_line(
    tokenizer: Any, code: CodeBlocks
) -> None:
    answer = example(tokenizer, "Write it: ", "```\nx\n```")
    assert tokenizer.decode(answer.tokens[code.mask(answer)].tolist()) == "x\n"
    chat = [256, *tokenizer.encode("```\nx\n```"), 256, *tokenizer.encode("y\n```\nz")]
    mask = code.mask(EncodedExample(chat, ()))
    assert tokenizer.decode(np.array(chat)[mask].tolist()) == "x\nz"
    # Not so in the middle of a line that nobody learns.
    whole = tokenizer.encode("Write it: ```\nx\n")
    assert not code.mask(EncodedExample(whole, ())).any()


def tokenizer_of(model: Any, decoder: Any, splitter: Any = None) -> Any:
    made = Tokenizer(model)
    made.decoder = decoder
    if splitter is not None:
        made.pre_tokenizer = splitter
    fast: Any = PreTrainedTokenizerFast  # Its constructor is not annotated.
    return fast(tokenizer_object=made, eos_token=EOS)


def masked(tokenizer: Any, pieces: list[str]) -> list[str]:
    """The pieces that are code."""
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert len(set(ids)) == len(set(pieces))
    mask = CodeBlocks(tokenizer).mask(EncodedExample(ids, ()))
    return [piece for piece, within in zip(pieces, mask, strict=True) if within]


def test_words_are_decoded_one_by_one() -> None:
    words = ["[UNK]", "a", "b", "x", "```", "``", "`", "py", "\n", "\n\n"]
    vocabulary = {word: index for index, word in enumerate(words)}
    splitter = pre_tokenizers.Split(" ", "removed")
    tokenizer = tokenizer_of(models.WordLevel(vocabulary, "[UNK]"), None, splitter)
    pieces = ["a", "\n", "```", "py", "\n", "x", "a", "\n\n", "b", "\n", "```", "\n", "b"]
    assert masked(tokenizer, pieces) == ["x", "a", "\n\n", "b", "\n"]


def test_sentencepiece_tokens_are_decoded() -> None:
    pieces = ["▁", "a", "▁a", "x", "▁x", "``", "`", "```", "▁```", "py", "▁b", "é"]
    vocabulary = {"<unk>": 0, EOS: 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    for piece in pieces:
        vocabulary[piece] = len(vocabulary)
    decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bpe = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    tokenizer = tokenizer_of(bpe, decoder)
    line, half = "<0x0A>", "<0xC3>"
    text = ["▁a", line, "``", "`", "py", line, "▁x", half, line, "```", line, "▁b", line]
    assert masked(tokenizer, text) == ["▁x", half, line]
    # A fence after a space that the first token of a text would lose, and one unclosed.
    assert masked(tokenizer, ["▁```", line, "▁x", "é", EOS]) == ["▁x", "é", EOS]
    assert masked(tokenizer, ["a", "▁```", line, "▁x"]) == []


def test_merged_tokens_belong_to_code_only_as_a_whole() -> None:
    pieces = ["a", "x", "Ċ```", "```", "``", "`", "Ċ", "pyĊ", "xĊ", "`Ċ", "aĊ"]
    vocabulary = {EOS: 0} | {piece: index + 1 for index, piece in enumerate(pieces)}
    tokenizer = tokenizer_of(models.BPE(vocab=vocabulary, merges=[]), decoders.ByteLevel())
    text = ["aĊ", "``", "`", "pyĊ", "xĊ", "x", "Ċ```", "Ċ", "a"]
    assert masked(tokenizer, text) == ["xĊ", "x"]
    assert masked(tokenizer, ["``", "`Ċ", "x", "Ċ", "`", "``"]) == ["x", "Ċ"]


def test_tokens_without_text_are_not_code(tokenizer: Any, code: CodeBlocks) -> None:
    unknown = len(tokenizer) + 100
    ids = [unknown, *tokenizer.encode("```\nx"), unknown]
    assert code.mask(EncodedExample(ids, ())).tolist() == [False] * 5 + [True, False]


def by_hand(
    model: Any, code: CodeBlocks, examples: list[EncodedExample], *, weighted: bool = False
) -> torch.Tensor:
    """The definition, token by token, as a binary cross-entropy of probabilities."""
    found, weights = [], []
    for one in examples:
        states = model.model(torch.tensor([one.input_ids])).last_hidden_state[0]
        mask = code.mask(one)
        kinds = {kind: [t for t in learned(one) if mask[t] == kind] for kind in (True, False)}
        if min(len(places) for places in kinds.values()) < 2:
            continue
        for place in learned(one):
            likeness = {}
            for kind, places in kinds.items():
                mean = torch.stack([states[other] for other in places if other != place]).mean(0)
                cosine = states[place] @ mean / states[place].norm() / mean.norm()
                likeness[kind] = torch.exp(cosine / 0.1)
            is_code = likeness[True] / (likeness[True] + likeness[False])
            wanted = torch.tensor(float(mask[place]))
            found.append(torch.nn.functional.binary_cross_entropy(is_code, wanted))
            weights.append(one.weight if weighted else 1.0)
    return (torch.stack(found) * torch.tensor(weights)).sum() / sum(weights)


def cross_entropy(model: Any, examples: list[EncodedExample], *, weighted: bool) -> torch.Tensor:
    summed = [
        negative_log_likelihoods(model, one).sum() * (one.weight if weighted else 1.0)
        for one in examples
    ]
    counts = [one.counted * (one.weight if weighted else 1.0) for one in examples]
    return torch.stack(summed).sum() / sum(counts)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_added_by_its_definition(
    model: Any, code: CodeBlocks, step: list[EncodedExample], weighted: bool
) -> None:
    config = configuration({"code_loss": {"weight": WEIGHT}}, quality_weighting=weighted)
    plain = cross_entropy(model, step, weighted=weighted)
    wanted = plain + WEIGHT * by_hand(model, code, step, weighted=weighted)
    wanted_gradient = gradient(model, wanted)
    for batches in (parts(step, 7), parts(step, 2), parts(step, 1), packed(step, 60, 1)):
        found = losses(model, config, step, batches, code)
        assert total(found).item() == pytest.approx(wanted.item(), rel=1e-5)
        reported = sum(part.loss.item() for part in found)
        assert reported == pytest.approx(plain.item(), rel=1e-5)
        torch.testing.assert_close(
            gradient(model, total(found)), wanted_gradient, rtol=2e-3, atol=2e-6
        )


def test_it_joins_rdrop_and_smoothing(
    model: Any, code: CodeBlocks, step: list[EncodedExample]
) -> None:
    others = {"rdrop": {"alpha": 1.0}, "label_smoothing": 0.1}
    config = configuration({**others, "code_loss": {"weight": WEIGHT}})
    without = losses(model, config, step, parts(step, 3), code, frozenset(others))  # type: ignore[arg-type]
    found = losses(model, config, step, parts(step, 3), code)
    added = total(found).item() - total(without).item()
    assert added == pytest.approx(WEIGHT * by_hand(model, code, step).item(), rel=1e-4)


def test_examples_of_one_kind_count_nothing(
    model: Any, code: CodeBlocks, step: list[EncodedExample]
) -> None:
    config = configuration({"code_loss": {"weight": WEIGHT}})
    one_kind = [step[place] for place in (1, 2, 5, 6)]
    found = losses(model, config, one_kind, parts(one_kind, 2), code)
    plain = losses(model, configuration(), one_kind, parts(one_kind, 2))
    assert torch.equal(total(found), total(plain))


def test_tokens_of_zero_weight_count_nothing(
    model: Any, code: CodeBlocks, step: list[EncodedExample]
) -> None:
    config = configuration({"code_loss": {"weight": WEIGHT}}, quality_weighting=True)
    idle = [replace(one, weight=0.0) for one in step]
    (found,) = losses(model, config, idle, parts(idle, 7), code)
    assert found.objective.item() == 0
    assert not gradient(model, found.objective).any()


def test_a_set_without_code_is_refused(code: CodeBlocks, step: list[EncodedExample]) -> None:
    objective = Objective(configuration({"code_loss": {"weight": WEIGHT}}), code)
    objective.check(step)
    with pytest.raises(InvalidTrial, match=r"code_loss: given for 2 training examples"):
        objective.check(step[1:3])
    Objective(configuration(), None).check(step[1:3])


def test_training_pulls_the_kinds_apart(
    base: Path, code: CodeBlocks, step: list[EncodedExample]
) -> None:
    model = load(base)
    config = configuration({"code_loss": {"weight": 1.0}})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = collate(step, pad_id=PAD, device=CPU)
    before = by_hand(model, code, step).item()
    for _ in range(10):
        optimizer.zero_grad()
        total(losses(model, config, step, [batch], code)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert by_hand(model, code, step).item() < 0.7 * before
