"""What is asked of the engine that writes answers, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from hpo.spec.tasks import Decoding


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer, without special tokens and without the text that stopped it."""

    text: str
    token_ids: tuple[int, ...]
    """All tokens that were written, the one that ended the answer among them."""
    truncated: bool
    """Cut at the most new tokens or at the end of the window, not ended by the model."""


@dataclass(frozen=True)
class Writing:
    """How a set is answered."""

    prompts: Sequence[Sequence[int]]
    """Token ids."""
    max_new_tokens: int
    decoding: Decoding
    stop_token_ids: Sequence[int] = ()
    """End tokens besides the model's own, such as the one that ends a turn of a chat."""


OnAnswer = Callable[[int, int, Generated], None]
"""Called with the index of the prompt, that of the sample, and the answer."""
OnAnswerOfEach = Callable[[int, int, int, Generated], None]
"""As `OnAnswer`, after the index of the checkpoint."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is to be written."""

    checkpoint: int
    item: int
    sample: int
    prompt: Sequence[int]
    most: int
    """New tokens that there is room for."""
    seed: int | None
    """Of the draws; None where the answer is greedy."""

    @property
    def place(self) -> tuple[int, int, int]:
        """Where the answer belongs."""
        return self.checkpoint, self.item, self.sample


def asks(writing: Writing, *, window: int, checkpoints: int = 1) -> Iterator[Ask]:
    """Every answer of a set, but for prompts that leave no room for a single token.

    `window` are the tokens of a prompt and its answer together. Neither the
    checkpoint nor the order decides about a seed: every checkpoint draws alike.
    """
    decoding = writing.decoding
    for item, prompt in enumerate(writing.prompts):
        most = min(writing.max_new_tokens, window - len(prompt))
        if most < 1:
            continue
        for sample in range(decoding.samples):
            seed = _seed(decoding, item, sample)
            for checkpoint in range(checkpoints):
                yield Ask(checkpoint, item, sample, prompt, most, seed)


def _seed(decoding: Decoding, item: int, sample: int) -> int | None:
    if decoding.temperature == 0:
        return None
    content = f"{decoding.seed}:{item}:{sample}".encode()
    return int.from_bytes(blake2b(content, digest_size=4).digest(), "big")
