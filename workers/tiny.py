"""A tiny Qwen2-type model, its tokenizer and an arithmetic data set.

Made on the spot for the quickstart, the tests and the benchmarks, so that
nothing has to be downloaded: `python -m workers.tiny FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any, Literal

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"


def make_tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer (one token per byte) and return its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PAD, bos_token=None
    )
    fast.save_pretrained(folder)
    return len(fast)


def make_model(
    folder: Path,
    *,
    hidden_size: int = 64,
    layers: int = 2,
    seed: int = 0,
    tied: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Path:
    """Write a random Qwen2 model with its tokenizer and return the folder.

    Heads have 32 dimensions, the smallest that vLLM serves on a CPU.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = make_tokenizer(folder)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=vocabulary - 2,
        pad_token_id=vocabulary - 1,
        initializer_range=0.05,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Qwen2ForCausalLM(config)  # type: ignore[no-untyped-call]
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def make_arithmetic(folder: Path, *, largest: int = 49, seed: int = 0) -> None:
    """Write sums `a+b=` as train.jsonl and valid.jsonl, no sum in both.

    All pairs up to `largest` are shuffled; a tenth of them, 500 at most, is
    held out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(a, b) for a in range(largest + 1) for b in range(largest + 1)]
    random.Random(seed).shuffle(pairs)
    held_out = min(500, len(pairs) // 10)
    for name, part in (("valid", pairs[:held_out]), ("train", pairs[held_out:])):
        lines = [json.dumps({"prompt": f"{a}+{b}=", "completion": str(a + b)}) for a, b in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write model and data below the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    make_model(folder / "model")
    make_arithmetic(folder / "data")


if __name__ == "__main__":
    main()
