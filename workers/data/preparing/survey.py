"""What a tokenizer is needed for while data is prepared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpo.spec.tasks import fields_of
from workers.data.example import Example, RowProblem

if TYPE_CHECKING:
    from hpo.spec.data import DataSpec
    from workers.data.tokens.encoded import EncodedSet
    from workers.data.tokens.encoder import Encoder


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of an example and of its prompt, for limits."""

    whole: Callable[[Example], int]
    prompt: Callable[[Example], int]


def token_counts(tokenizer: str, data: DataSpec) -> TokenCounts:
    """Load a tokenizer and count with it, few-shot examples of the training set left out."""
    encoder = load_encoder(tokenizer, data)
    return TokenCounts(
        whole=lambda example: len(encoder.encode_whole(example).input_ids),
        prompt=lambda example: len(encoder.encode_prompt(example)),
    )


def load_encoder(tokenizer: str, data: DataSpec, shots: Sequence[Example] = ()) -> Encoder:
    """An encoder with the tokenizer of a model folder or hub name. Raises InputError."""
    # Heavy: only processes that tokenise import it.
    from workers.data.tokens.encoder import Encoder
    from workers.data.tokens.tokenizer import load_tokenizer

    return Encoder(load_tokenizer(tokenizer), data, shots=shots)


@dataclass
class Survey:
    """What is known about a batch of kept examples."""

    encoded: EncodedSet | None = None
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Examples by label and value."""
    quality: list[float] = field(default_factory=list)
    bare: dict[str, str] = field(default_factory=dict)
    """Fields that grading may need and that some example lacks, with the first such example."""
    problems: dict[int, RowProblem] = field(default_factory=dict)
    """Examples that do not go with the layout, by their place in the batch."""


@dataclass
class Surveyor:
    """Tokenises and counts lines of examples; lives in a pool's process."""

    encoder: Encoder | None
    needed: Sequence[str] = ()
    """Fields that grading some set needs."""

    @staticmethod
    def make(tokenizer: str | None, data: DataSpec, shots: Sequence[Example]) -> Surveyor:
        """Build one in the process that it is to work in."""
        encoder = load_encoder(tokenizer, data, shots) if tokenizer is not None else None
        answered = data.answered_sets().values()
        return Surveyor(encoder, [name for part in answered for name in fields_of(part.task)])

    def __call__(self, lines: list[bytes]) -> Survey:
        """Lines in, tokens and counts out."""
        examples = [Example.from_line(line) for line in lines]
        survey = Survey()
        if self.encoder is not None:
            survey.encoded = self.encoder.encode_many(examples, survey.problems.__setitem__)
        for place, example in enumerate(examples):
            if place in survey.problems:
                continue
            for label, value in {"file": example.origin, **example.labels}.items():
                survey.counts.setdefault(label, Counter())[value] += 1
            for name in self.needed:
                if name not in example.task_fields:
                    survey.bare.setdefault(name, example.where)
            if example.quality is not None:
                survey.quality.append(example.quality)
        return survey
