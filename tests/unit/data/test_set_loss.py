"""The loss over a set: against a plain loop, by length, and where memory runs out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from hpo.spec.errors import InputError
from workers.data.batches import loss
from workers.data.batches.by_length import MemoryLimit
from workers.data.batches.loss import BucketLoss, ExampleLoss, LossResult, evaluation_loss
from workers.data.tokens.encoded import EncodedExample

VOCABULARY = 300
LONGEST = 96
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")


def make(architecture: str) -> Any:
    from transformers import (
        AutoModelForCausalLM,
        GPT2Config,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
    )

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "initializer_range": 0.2,
    }
    config: Any = {
        "qwen2": lambda: Qwen2Config(**sizes),
        "llama": lambda: LlamaConfig(**sizes, tie_word_embeddings=True),
        "mistral": lambda: MistralConfig(**sizes, sliding_window=16),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, initializer_range=0.2
        ),
    }[architecture]()
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model.float().eval()


@pytest.fixture(scope="module", params=["gpt2", "llama", "mistral", "qwen2"])
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture(scope="module")
def one_model() -> Any:
    return make("qwen2")


def some(lengths: list[int], seed: int = 0) -> list[EncodedExample]:
    draw = random.Random(seed)
    return [
        EncodedExample.completion_only(
            [draw.randrange(VOCABULARY) for _ in range(length)], draw.randrange(length)
        )
        for length in lengths
    ]


EXAMPLES = some([3, 90, 17, 40, 40, 8, 64, 2, 33])


def plain_loop(model: Any, examples: list[EncodedExample]) -> float:
    """One example at a time, nothing padded, the model's own logits."""
    total = 0.0
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor([example.input_ids])
            ((first, last),) = example.learned
            first = max(first, 1)
            logits = model(ids).logits[0, first - 1 : last - 1]
            losses = cross_entropy(logits, ids[0, first:last], reduction="none")
            total += losses.double().sum().item()
    return total


def evaluate(model: Any, examples: list[EncodedExample], tokens: int, **more: Any) -> LossResult:
    device = torch.device("cpu")
    return evaluation_loss(
        model, examples, pad_id=0, tokens_per_batch=tokens, device=device, **more
    )


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(2, LONGEST), min_size=1, max_size=10),
    st.integers(1, 512),
    st.none() | st.integers(1, 6),
    st.integers(0, 9),
)
def test_the_loss_of_a_set_equals_a_plain_loop(
    model: Any, lengths: list[int], tokens: int, most: int | None, seed: int
) -> None:
    examples = some(lengths, seed)
    result = evaluate(model, examples, tokens, most=most)
    assert result.total == pytest.approx(plain_loop(model, examples), rel=1e-6)
    assert result.tokens == sum(example.counted for example in examples)


def test_every_example_has_its_own_loss(model: Any) -> None:
    result = evaluate(model, EXAMPLES, 128)
    for example, got in zip(EXAMPLES, result.examples, strict=True):
        assert (got.length, got.tokens) == (example.length, example.counted)
        assert got.total == pytest.approx(plain_loop(model, [example]), rel=1e-6)


def test_buckets_hold_what_is_up_to_their_length() -> None:
    examples = [ExampleLoss(length, length / 8, 2) for length in (64, 65, 1, 128, 200, 129, 64)]
    assert LossResult.of(examples).by_length([64, 128]) == [
        BucketLoss(64, 3, 129 / 8, 6),
        BucketLoss(128, 2, 193 / 8, 4),
        BucketLoss(None, 2, 329 / 8, 4),
    ]
    assert LossResult.of(examples[:1]).by_length([32, 64, 128]) == [BucketLoss(64, 1, 8.0, 2)]
    assert LossResult.of([]).by_length([32]) == []


@given(st.data())
def test_the_order_of_the_examples_changes_nothing_to_the_bit(data: st.DataObject) -> None:
    losses = st.builds(
        ExampleLoss, st.integers(1, 99), st.floats(0, 1e9, allow_subnormal=False), st.integers(0, 9)
    )
    examples = data.draw(st.lists(losses, max_size=20))
    shuffled = LossResult.of(data.draw(st.permutations(examples)))
    result, buckets = LossResult.of(examples), [10, 30, 60]
    assert (shuffled.total, shuffled.tokens) == (result.total, result.tokens)
    assert shuffled.by_length(buckets) == result.by_length(buckets)
    parts = result.by_length(buckets)
    assert sum(part.examples for part in parts) == len(examples)
    assert sum(part.tokens for part in parts) == result.tokens
    assert math.fsum(part.total for part in parts) == pytest.approx(result.total)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stays_where_it_arose(bad: float) -> None:
    result = LossResult.of([ExampleLoss(3, 1.0, 2), ExampleLoss(70, bad, 2)])
    assert not math.isfinite(result.total)
    assert not math.isfinite(result.perplexity)
    assert [math.isfinite(part.total) for part in result.by_length([64])] == [True, False]


def full_in_some_calls(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: set[int]
) -> None:
    """Memory runs out in some calls of a function, counted from 1."""
    real: Callable[..., Any] = getattr(owner, name)
    count = 0

    def limited(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count in calls:
            raise OUT_OF_MEMORY
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (loss, "collate"),
        (loss, "hidden_states"),
        (torch.nn.functional, "scaled_dot_product_attention"),
        (loss, "cross_entropy"),
        (torch.Tensor, "index_copy_"),
    ],
    ids=["batch", "model", "attention", "logits", "sums"],
)
@pytest.mark.parametrize("calls", [{1}, {2}, {1, 2}], ids=["first", "second", "twice"])
def test_memory_that_runs_out_is_answered_by_smaller_passes(
    one_model: Any, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: set[int]
) -> None:
    wanted = evaluate(one_model, EXAMPLES, 256)
    limit = MemoryLimit()
    full_in_some_calls(monkeypatch, owner, name, calls)
    passes: list[int] = []
    got = evaluate(one_model, EXAMPLES, 256, limit=limit, on_progress=lambda: passes.append(1))
    assert got.tokens == wanted.tokens
    assert got.total == pytest.approx(wanted.total, rel=1e-6)
    assert limit.tokens is not None
    assert limit.tokens < 256
    monkeypatch.undo()
    again = evaluate(one_model, EXAMPLES, 256, limit=limit)
    assert again.total == pytest.approx(wanted.total, rel=1e-6)


def test_no_room_for_one_example_is_told(one_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full_in_some_calls(monkeypatch, loss, "hidden_states", set(range(1, 99)))
    with pytest.raises(InputError, match=r"an example of \d+ tokens has no room"):
        evaluate(one_model, EXAMPLES, 256)
    assert not one_model.training
