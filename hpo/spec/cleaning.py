"""What is not trained on, and what an example is worth."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpo.spec.base import NotBoolean, PositiveInt, Strict, TwoOrMore

Similarity = Annotated[float, Field(gt=0, le=1), NotBoolean]


class NearDuplicates(Strict):
    """Finds texts that share most of their word sequences (MinHash)."""

    threshold: Similarity = 0.8
    """Jaccard similarity from which two examples count as the same."""
    words: PositiveInt = 5
    """Length of the word sequences that are compared."""
    permutations: Annotated[int, Field(ge=16, le=1024), NotBoolean] = 128
    """Length of a signature; four bytes each per example."""


class Cleaning(Strict):
    """Which examples of the training set are not used, and what is put in order.

    Steps are taken in the order of these fields. Each counts what it drops.
    """

    broken_encoding: bool = True
    """Drop texts with replacement characters, control characters or the marks
    of a wrong decoding."""
    code_blocks: bool = False
    """Put fences of code blocks in order: backticks, a language, closed at the end."""
    min_characters: PositiveInt | None = None
    """Drop an example one of whose texts (prompt, completion) is shorter."""
    max_characters: PositiveInt | None = None
    """Drop an example whose texts are longer together."""
    incomplete: bool = False
    """Drop a completion that holds '...' and is shorter than `incomplete_characters`."""
    incomplete_characters: PositiveInt = 100
    """Length from which '...' in a completion is taken for meant."""
    min_tokens: PositiveInt | None = None
    """Drop an example with fewer tokens, prompt and template included."""
    max_tokens: PositiveInt | None = None
    """Drop an example with more tokens, prompt and template included."""
    exact_duplicates: bool = True
    """Drop an example whose texts are those of an earlier one, but for case,
    white space and Unicode form."""
    near_duplicates: NearDuplicates | None = None
    """Drop an example that is almost an earlier one; not looked for by default."""
    evaluation: bool = False
    """Clean evaluation sets with files of their own, too. What is held out of
    the training set's files always is."""


class Decontamination(Strict):
    """Looks for evaluation items in the training set (n-gram overlap)."""

    words: TwoOrMore = 13
    """Length of the word sequences that are compared."""
    overlap: Similarity = 0.5
    """Share of an item's word sequences in a training example from which the
    example holds the item."""
    action: Literal["drop", "report"] = "drop"
    """Drop such examples, or only report them."""


class FieldQuality(Strict):
    """A quality score that the data brings."""

    type: Literal["field"]
    field: str
    """Field with a number from 0 to 1."""


class ComputedQuality(Strict):
    """A quality score of our own: the mean of its parts, each from 0 to 1."""

    type: Literal["computed"]
    parts: Annotated[
        tuple[Literal["length", "completeness", "code", "agreement"], ...], Field(min_length=1)
    ] = ("length", "completeness", "code", "agreement")
    """`length`: neither very short nor very long; `completeness`: no cut-off end;
    `code`: its Python blocks parse; `agreement`: the final answer is the `answer`."""
    answer: str | None = None
    """Field with the known final answer, for `agreement`."""


Quality = Annotated[FieldQuality | ComputedQuality, Field(discriminator="type")]
