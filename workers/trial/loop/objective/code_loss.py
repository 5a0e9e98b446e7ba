"""An auxiliary loss that separates code from prose. The definition is ours.

Within each example the learned tokens are of two kinds: those within fenced
code blocks and the others. With h the last hidden state at a token, and the
means of the states of either kind over the learned tokens of the same example,
the token itself left out of its own kind's mean,

    loss = -log σ((cos(h, own kind's mean) - cos(h, other kind's mean)) / 0.1),

which is the binary cross-entropy of telling the kinds apart by cosine
similarity with temperature 0.1. A token is left out of its mean because its
likeness to itself would answer the question, the more so the fewer there are.
Gradients flow through the means, too. The loss is the average over all such
tokens of an optimizer step, each times its example's weight where training
weighs by quality. An example with fewer than two tokens of either kind has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cosine_similarity, softplus

from workers.data.batches.collate import Batch
from workers.data.tokens.encoded import EncodedExample
from workers.trial.loop.objective.code_blocks import CodeBlocks, Mask

TEMPERATURE = 0.1
"""Of the cosine similarities."""


class CodeTerm:
    """The auxiliary loss of one optimizer step, micro-batch by micro-batch."""

    def __init__(
        self,
        code: CodeBlocks,
        examples: Sequence[EncodedExample],
        weight: float,
        *,
        by_quality: bool,
    ) -> None:
        """`weight` is that of the loss, which examples have `by_quality` besides."""
        self._kinds = [kinds_of(code, example) for example in examples]
        weights = np.array([example.weight if by_quality else 1.0 for example in examples])
        sizes = np.array([0 if kinds is None else len(kinds) for kinds in self._kinds])
        # Without a token that counts, or weighs anything, there is nothing to divide.
        self._shares = weight * weights / (float(weights @ sizes) or 1.0)

    def __call__(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The batch's share: a float32 scalar that sums up to the step's loss, with its weight.

        `states` (counted, hidden size) are those at the batch's counted tokens.
        """
        kinds = [self._kinds[member] for member in batch.members]
        counts = [example.counted for example in batch.examples]
        chosen = np.repeat([each is not None for each in kinds], counts)
        if not chosen.any():
            return states.new_zeros((), dtype=torch.float32)
        code = np.concatenate([each for each in kinds if each is not None])
        example = np.repeat(np.arange(len(counts)), counts)[chosen]
        shares = self._shares[list(batch.members)].astype(np.float32)
        losses = separation_losses(
            states[_on(states, np.flatnonzero(chosen))],
            _on(states, code),
            _on(states, example),
            len(counts),
        )
        return (losses * _on(states, shares[example])).sum()


def kinds_of(code: CodeBlocks, example: EncodedExample) -> Mask | None:
    """Whether each learned token of an example is code, or None where it counts nothing."""
    mask = code.mask(example)
    spans = [mask[max(start, 1) : end] for start, end in example.learned]
    kinds: Mask = np.concatenate(spans) if spans else mask[:0]
    several = min(np.count_nonzero(kinds), np.count_nonzero(~kinds)) >= 2
    return kinds if several else None


def separation_losses(
    states: torch.Tensor, code: torch.Tensor, example: torch.Tensor, examples: int
) -> torch.Tensor:
    """The loss of each token, float32 (tokens,).

    `states` (tokens, hidden size), `code` bool (tokens,), `example` int64
    (tokens,), one of `examples`. Each that occurs has two tokens at least of
    either kind.
    """
    states = states.float()
    kind = 2 * example + code
    sums = states.new_zeros(2 * examples, states.shape[1]).index_add(0, kind, states)
    # Sums serve as well as means: a cosine has no length.
    own = cosine_similarity(states, sums[kind] - states, dim=1)
    other = cosine_similarity(states, sums[kind ^ 1], dim=1)
    return softplus((other - own) / TEMPERATURE)


def _on(like: torch.Tensor, values: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(values).to(like.device)
