"""What makes a generated response refused: checks of our own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpo.spec.base import NonNegativeInt, NotBoolean, PositiveInt, Strict, TwoOrMore
from hpo.spec.cleaning import Similarity

Text = Annotated[str, Field(min_length=1)]
SmallShare = Annotated[float, Field(ge=0, lt=1), NotBoolean]
META_PHRASES = (
    "as an AI",
    "as a language model",
    "as a large language model",
    "I am an AI",
    "I'm an AI",
    "I'm sorry, but I can't",
    "I cannot assist with",
    "come modello linguistico",
    "in quanto modello linguistico",
    "in quanto intelligenza artificiale",
    "sono un'intelligenza artificiale",
)
"""What models say about themselves, in English and Italian."""


class Opening(Strict):
    """Refuses a response that opens like many others of its level."""

    words: PositiveInt = 6
    """Length of an opening."""
    number: PositiveInt = 3
    """So many responses of a level may share one."""
    share: SmallShare = 0.01
    """Or this share of the level's accepted responses, where that is more."""


class Skeleton(Strict):
    """Refuses a response that is others with the names and numbers changed.

    The skeleton is what is left when numbers, quoted words and capitalised
    words are masked.
    """

    number: PositiveInt = 1
    """So many responses of a level may share one."""
    share: SmallShare = 0.0
    """Or this share of the level's accepted responses, where that is more."""


class Repeated(Strict):
    """Refuses a response that is, almost, one that was accepted before."""

    similarity: Similarity = 0.8
    """Jaccard similarity of the sets of word sequences; 1 refuses equals only."""
    words: PositiveInt = 3
    """Length of the word sequences."""


class Repetition(Strict):
    """Refuses a response that goes round in circles."""

    lines: TwoOrMore = 4
    """So many equal lines."""
    words: PositiveInt = 4
    """Length of the word sequences that are counted."""
    times: TwoOrMore = 5
    """So many equal word sequences."""
    run: TwoOrMore = 12
    """The same letters, up to ten of them, so many times in a row."""


class Copy(Strict):
    """Refuses a response that is mostly its prompt."""

    words: PositiveInt = 5
    """Length of the word sequences that are compared."""
    share: Similarity = 0.6
    """Share of the response's word sequences that stand in the prompt."""


class Checks(Strict):
    """What makes a response refused. These checks are ours, of no publication.

    They are made in the order of these fields, and the first that fails is
    the reason.
    """

    min_characters: NonNegativeInt = 10
    """Shortest response; an empty one is always refused."""
    allow_truncated: bool = False
    """Accept responses that were cut at `max_new_tokens`."""
    phrases: list[Text] = Field(default=list(META_PHRASES))
    """Phrases, in either case, that no response may hold."""
    repetition: Repetition | None = Repetition()
    """Degenerate repetition inside a response; null allows it."""
    copy_of_prompt: Copy | None = Copy()
    """Copies of the prompt; null allows them."""
    repeated: Repeated | None = Repeated()
    """Equal and almost equal responses, of any level; null allows them."""
    opening: Opening | None = Opening()
    """Template-like openings; null allows them."""
    skeleton: Skeleton | None = Skeleton()
    """Template-like skeletons; null allows them."""
