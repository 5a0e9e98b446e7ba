"""Graded answers as they are stored and handed out: lines of JSON, gzip'd.

The evaluation worker packs them, everybody who shows them unpacks them. Equal
content gives equal bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

GZIP = 31
"""zlib's number for the largest window with gzip's header, which then holds no time."""
MARGIN = 0.97
"""Share of the room that is aimed at: shorter texts compress a little worse."""

FIRST = ("correct", "scored", "wrong_answer", "format_failure")
LAST = ("not_gradable", "not_asked")
"""Categories in the order in which people are shown them; others stand between."""

GRADE = ("item", "sample", "category", "score", "tokens", "truncated")
"""What is left of a row without its texts."""

# An encoder of its own: `json.dumps` makes one per call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item of a generation set; its number is its place in the set."""

    prompt: str
    """As the model read it."""
    reference: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Values of the fields by which the accuracy is broken down."""


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One answer with its grade."""

    text: str
    """Empty where it was left out; see `StoredAnswers.omitted`."""
    tokens: int
    truncated: bool
    """Whether it was cut at the most tokens of an answer or at the model's window."""
    category: str
    score: float
    """From 0 to 1; 1 is right."""
    extracted: str | None = None
    """What was taken for the final answer."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StoredAnswers:
    """All answers to one item."""

    item: int
    samples: tuple[StoredSample, ...]
    omitted: bool = False
    """Whether texts were left out, for want of room; grades are there all the same."""

    @property
    def score(self) -> float:
        """Mean score of the samples; 0 without any."""
        return sum(s.score for s in self.samples) / len(self.samples) if self.samples else 0.0

    @property
    def categories(self) -> set[str]:
        """Categories of the samples."""
        return {sample.category for sample in self.samples}

    @property
    def length(self) -> int:
        """Characters of the texts."""
        return sum(len(s.text) + len(s.extracted or "") + len(s.detail) for s in self.samples)

    def without_texts(self) -> StoredAnswers:
        """The grades alone."""
        bare = tuple(replace(s, text="", extracted=None, detail="") for s in self.samples)
        return StoredAnswers(self.item, bare, omitted=True)


def in_order(categories: Iterable[str]) -> list[str]:
    """Categories as people are shown them; the database keeps no order."""
    return sorted(categories, key=lambda name: (_place(name), name))


def _place(category: str) -> int:
    if category in FIRST:
        return FIRST.index(category)
    return len(FIRST) + (1 + LAST.index(category) if category in LAST else 0)


def pack_set(items: Iterable[StoredItem]) -> bytes:
    """A generation set as bytes, one line per item."""
    return _packed(asdict(item) for item in items)


def unpack_set(packed: bytes) -> list[StoredItem]:
    """What `pack_set` packed. Raises ValueError for other or damaged bytes."""
    return [StoredItem(**line) for line in _lines(packed)]


def pack_answers(answers: Sequence[StoredAnswers], limit_bytes: int) -> bytes | None:
    """A set's answers in at most so many bytes, one line per item, in their order.

    Where they do not fit, the texts of the longest items are left out, as many
    as it takes. None where not even the grades alone fit.
    """
    shortest_first = sorted(answers, key=lambda answer: (answer.length, answer.item))
    kept = len(answers)
    while True:
        whole = {answer.item for answer in shortest_first[:kept]}
        packed = _packed(
            _line(answer if answer.item in whole else answer.without_texts()) for answer in answers
        )
        if len(packed) <= limit_bytes:
            return packed
        if kept == 0:
            return None
        kept = _fewer(shortest_first[:kept], limit_bytes / len(packed))


def unpack_answers(packed: bytes) -> list[StoredAnswers]:
    """What `pack_answers` packed. Raises ValueError for other or damaged bytes."""
    return [
        StoredAnswers(
            line["item"],
            tuple(StoredSample(**sample) for sample in line["samples"]),
            line.get("omitted", False),
        )
        for line in _lines(packed)
    ]


def answer_rows(
    items: Sequence[StoredItem], answers: Iterable[StoredAnswers]
) -> Iterator[dict[str, Any]]:
    """One flat row per answer, for tables; without `answer` where the text was left out."""
    for answer in answers:
        item = items[answer.item]
        for number, sample in enumerate(answer.samples):
            row = {"item": answer.item, "sample": number, "category": sample.category}
            row |= {"score": sample.score, "extracted": sample.extracted, "detail": sample.detail}
            row |= {"tokens": sample.tokens, "truncated": sample.truncated}
            row |= {"prompt": item.prompt, "reference": item.reference}
            if not answer.omitted:
                row["answer"] = sample.text
            yield row | ({"labels": dict(item.labels)} if item.labels else {})


def row_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON."""
    return _encoded(row) + b"\n"


def bounded_lines(
    items: Sequence[StoredItem], answers: Iterable[StoredAnswers], most_bytes: int
) -> list[bytes]:
    """The rows as lines of JSON, without their texts where there is no more room for them."""
    lines: list[bytes] = []
    for row in answer_rows(items, answers):
        line = row_line(row)
        if len(line) > most_bytes:
            line = row_line({name: row[name] for name in GRADE})
        if len(line) > most_bytes:
            break
        most_bytes -= len(line)
        lines.append(line)
    return lines


def _line(answer: StoredAnswers) -> dict[str, Any]:
    line: dict[str, Any] = {"item": answer.item}
    line["samples"] = [asdict(sample) for sample in answer.samples]
    return line | {"omitted": True} if answer.omitted else line


def _fewer(shortest_first: Sequence[StoredAnswers], share: float) -> int:
    """How many of the answers have together about this share of all their characters."""
    room = share * MARGIN * sum(answer.length for answer in shortest_first)
    number = 0
    for answer in shortest_first[:-1]:
        room -= answer.length
        if room < 0:
            break
        number += 1
    return number


def _packed(lines: Iterable[Mapping[str, Any]]) -> bytes:
    stream = zlib.compressobj(wbits=GZIP)
    parts = [stream.compress(row_line(line)) for line in lines]
    return b"".join([*parts, stream.flush()])


def _lines(packed: bytes) -> Iterator[dict[str, Any]]:
    try:
        content = zlib.decompress(packed, wbits=GZIP)
    except zlib.error as error:
        raise ValueError(f"these are no stored answers: {error}") from error
    for line in content.decode("utf-8", "surrogatepass").split("\n")[:-1]:
        yield json.loads(line)


def _encoded(content: Mapping[str, Any]) -> bytes:
    # Half of a surrogate pair may come out of a grader of one's own.
    return _encode(content).encode("utf-8", "surrogatepass")
