from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.spec.errors import InputError
from workers.data.batches import loss
from workers.data.batches.collate import Batch, collate, collate_packed
from workers.data.batches.packing import pack
from workers.data.tokens.encoded import EncodedExample, EncodedSet

CPU = torch.device("cpu")
PAD = 257
UNEVEN = [
    EncodedExample.completion_only((10, 11, 12, 13, 14, 15, 256), 3),
    EncodedExample.completion_only((20, 256), 1),
    EncodedExample.completion_only(range(30, 50), 15),
]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)


def batch(examples: list[EncodedExample], pad: int = PAD) -> Batch:
    return collate(examples, pad_id=pad, device=CPU)


def by_hand(model: Any, example: EncodedExample) -> float:
    """Sum of -log softmax over what is learned, in float64, without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([example.input_ids])).logits[0].double()
    return sum(
        (torch.logsumexp(logits[place - 1], 0) - logits[place - 1, token]).item()
        for place, token in enumerate(example.input_ids)
        if place and any(start <= place < end for start, end in example.learned)
    )


def evaluate(model: Any, tokens_per_batch: int, **more: Any) -> loss.LossResult:
    return loss.evaluation_loss(
        model, UNEVEN, pad_id=PAD, tokens_per_batch=tokens_per_batch, device=CPU, **more
    )


def test_the_loss_is_the_sum_over_counted_tokens(model: Any) -> None:
    total, counted = loss.token_losses(model, batch(UNEVEN))
    assert counted == 4 + 1 + 5
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(sum(by_hand(model, one) for one in UNEVEN), rel=1e-5)


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_examples_per_forward_pass_can_be_limited(model: Any, most: int) -> None:
    assert evaluate(model, 1000, most=most).total == pytest.approx(evaluate(model, 1000).total)


@pytest.mark.parametrize("tokens_per_batch", [1, 16, 1000])
def test_the_loss_over_a_set_does_not_depend_on_its_batches(
    model: Any, tokens_per_batch: int
) -> None:
    result = evaluate(model, tokens_per_batch)
    wanted = sum(by_hand(model, one) for one in UNEVEN)
    assert result.tokens == 10
    assert result.total == pytest.approx(wanted, rel=1e-5)
    assert result.mean == pytest.approx(wanted / 10, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(wanted / 10), rel=1e-4)


def test_padding_never_changes_the_loss(model: Any) -> None:
    alone = sum(loss.token_losses(model, batch([one]))[0].item() for one in UNEVEN)
    for pad in (0, PAD):
        together = loss.token_losses(model, batch(UNEVEN, pad))[0].item()
        assert together == pytest.approx(alone, rel=1e-6)


@st.composite
def documents(draw: st.DrawFn) -> EncodedExample:
    ids = draw(st.lists(st.integers(0, 256), min_size=2, max_size=9))
    places = sorted(draw(st.sets(st.integers(0, len(ids)), min_size=2, max_size=4)))
    spans = tuple(zip(places[::2], places[1::2], strict=False))
    return EncodedExample(tuple(ids), spans, draw(st.floats(0, 1, width=32)))


@settings(max_examples=40, deadline=None)
@given(st.lists(documents(), min_size=1, max_size=6), st.integers(4, 24), st.booleans())
def test_packed_equals_unpacked(
    model: Any, examples: list[EncodedExample], capacity: int, weighted: bool
) -> None:
    rows = pack([len(example.input_ids) for example in examples], capacity)
    packed = collate_packed(examples, rows, pad_id=PAD, device=CPU)
    with torch.no_grad():
        alone = [loss.token_losses(model, batch([one]), weighted=weighted) for one in examples]
        padded = loss.token_losses(model, batch(examples), weighted=weighted)
        total, counted = loss.token_losses(model, packed, weighted=weighted)
    wanted = sum(one.item() for one, _ in alone)
    assert total.item() == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert padded[0].item() == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert counted == padded[1] == pytest.approx(sum(number for _, number in alone))


def test_weights_scale_losses_and_counts(model: Any) -> None:
    weights = (0.5, 0.0, 2.0)
    weighed = [
        EncodedExample(one.input_ids, one.learned, weight)
        for one, weight in zip(UNEVEN, weights, strict=True)
    ]
    total, number = loss.token_losses(model, batch(weighed), weighted=True)
    wanted = sum(w * by_hand(model, one) for w, one in zip(weights, UNEVEN, strict=True))
    assert total.item() == pytest.approx(wanted, rel=1e-5)
    assert number == 0.5 * 4 + 0.0 * 1 + 2.0 * 5
    assert loss.token_losses(model, batch(weighed))[1] == 10
    plain = loss.token_losses(model, batch(UNEVEN))[0]
    assert torch.equal(loss.token_losses(model, batch(weighed))[0], plain)
    assert loss.token_losses(model, batch(UNEVEN), weighted=True)[0].item() == pytest.approx(
        plain.item(), rel=1e-6
    )


def test_a_stored_set_has_the_loss_of_its_examples(model: Any, tmp_path: Path) -> None:
    EncodedSet.of(UNEVEN).save(tmp_path)
    result = loss.evaluation_loss(
        model, EncodedSet.load(tmp_path), pad_id=PAD, tokens_per_batch=16, device=CPU
    )
    assert result == evaluate(model, 16)


def test_progress_is_reported_after_each_forward_pass(model: Any) -> None:
    calls: list[int] = []
    evaluate(model, 16, on_progress=lambda: calls.append(1))
    assert len(calls) == 2


def test_evaluation_leaves_mode_and_gradients_alone(model: Any) -> None:
    model.train()
    evaluate(model, 16)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters())
    model.eval()


@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_change_neither_loss_nor_gradient(
    model: Any, monkeypatch: pytest.MonkeyPatch, weighted: bool
) -> None:
    def loss_and_gradient() -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total, _ = loss.token_losses(model, batch(UNEVEN), weighted=weighted)
        total.backward()
        return total.item(), model.model.embed_tokens.weight.grad.clone()

    whole, gradient = loss_and_gradient()
    monkeypatch.setattr(loss, "LOGITS_PER_CHUNK", 3 * model.config.vocab_size)
    chunked, chunked_gradient = loss_and_gradient()
    assert chunked == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_wrapped_model_counts_its_adapter(model_folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    plain = loss.token_losses(base, batch(UNEVEN))[0].item()
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    wrapped = get_peft_model(base, config).eval()
    adapted = loss.token_losses(wrapped, batch(UNEVEN))[0].item()
    assert adapted == pytest.approx(sum(by_hand(wrapped, one) for one in UNEVEN), rel=1e-5)
    assert adapted != plain


def test_soft_capped_logits_are_capped() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        final_logit_softcapping=0.2,
    )
    model = Gemma2ForCausalLM(config).eval()
    loss.check_loss(model, CPU)
    total = loss.token_losses(model, batch(UNEVEN))[0].item()
    assert total == pytest.approx(sum(by_hand(model, one) for one in UNEVEN), rel=1e-5)


def test_a_model_with_other_logits_is_refused() -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        logits_scaling=8.0,
    )
    with pytest.raises(InputError, match="GraniteForCausalLM"):
        loss.check_loss(GraniteForCausalLM(config).eval(), CPU)


def test_an_overflowing_perplexity_is_infinite() -> None:
    assert loss.LossResult(1e6, 1).perplexity == math.inf
