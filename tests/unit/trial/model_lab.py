"""Tiny models of two architectures, and what trials do with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch

from hpo.spec.study import ModelSpec
from hpo.spec.training.config import TrainingConfig
from workers.data.batches.loss import evaluation_loss
from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_tokenizer
from workers.trial.model.attached import AttachedModel
from workers.trial.model.needs import ModelNeeds
from workers.trial.model.reusable import ReusableModel

CPU = torch.device("cpu")
Dtype = Literal["float32", "bfloat16", "float16"]
LORA: dict[str, Any] = {"type": "lora", "rank": 4, "alpha": 8}


def configuration(method: dict[str, Any], **fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "method": method,
            "optimizer": {"learning_rate": 1e-2},
            "effective_batch_size": 4,
            "max_batches": 3,
            **fields,
        }
    )


def lora(**options: Any) -> TrainingConfig:
    return configuration(LORA | options)


def full(**compute: Any) -> TrainingConfig:
    return configuration({"type": "full"}, compute=compute)


def load(folder: Path, dtype: Dtype, *configs: TrainingConfig, **options: Any) -> ReusableModel:
    """A model for trials of these configurations."""
    spec, needs = ModelSpec(path=str(folder), dtype=dtype), ModelNeeds.of(configs)
    return ReusableModel.load(spec, device=CPU, needs=needs, **options)


def make_gpt2(folder: Path, **settings: Any) -> Path:
    """A random GPT-2 of two layers, whose linear layers hold their weights transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = make_tokenizer(folder)
    sizes = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(**{**sizes, "bos_token_id": 256, "eos_token_id": 256, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = GPT2LMHeadModel(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    model.save_pretrained(folder)
    return folder


def change_config(folder: Path, **fields: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


def loss_of(attached: AttachedModel, examples: list[EncodedExample]) -> torch.Tensor:
    """Mean cross-entropy of all tokens, as the trial computes it."""
    longest = max(len(example.input_ids) for example in examples)
    rows = [(*one.input_ids, *[256] * (longest - len(one.input_ids))) for one in examples]
    ids = torch.tensor(rows)
    with torch.autocast(
        "cpu", dtype=attached.autocast_dtype, enabled=attached.autocast_dtype is not None
    ):
        loss: torch.Tensor = attached.module(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def train(attached: AttachedModel, examples: list[EncodedExample], steps: int = 3) -> list[float]:
    """A few steps of SGD; the losses."""
    weights = [weight for _, weight in attached.trainable]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    losses = []
    torch.manual_seed(0)
    for step in range(steps):
        loss = loss_of(attached, examples[4 * step : 4 * step + 4])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def disturb(attached: AttachedModel, seed: int = 1) -> None:
    """Random numbers in everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in attached.trainable:
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise.to(weight.dtype), alpha=0.1)


def measure(model: Any, examples: list[EncodedExample]) -> float:
    return evaluation_loss(model, examples, pad_id=0, tokens_per_batch=512, device=CPU).mean
