"""How graded answers look in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpo.cli.values import number, shortened, visible
from hpo.results.answers import GradedAnswers
from hpo.results.comparison import Change, Comparison
from hpo.search.graded import StoredAnswers, StoredItem, StoredSample

PROMPT, ANSWER = 300, 200
"""Characters that are shown of a changed item's prompt, and of an answer to it."""
OMITTED = "(its text was not stored: evaluation.answers_kib bounds what is)"
EMPTY = "(empty)"


def full_lines(answers: StoredAnswers, item: StoredItem) -> Iterator[str]:
    """An item with its answers, all texts in full."""
    yield item_line(answers.item, item)
    yield from _block("prompt", item.prompt)
    yield from _block("reference", item.reference)
    for index, sample in enumerate(answers.samples):
        name = "answer" if len(answers.samples) == 1 else f"answer {index}"
        yield from _block(name, OMITTED if answers.omitted else sample.text or EMPTY)
        yield f"  graded: {_grade(sample)}"
    yield ""


def changed_lines(
    comparison: Comparison,
    change: Change,
    before: GradedAnswers | None,
    after: GradedAnswers | None,
) -> Iterator[str]:
    """An item whose score changed, with both answers, shortened."""
    known = before or after
    if known is None:
        yield f"item {change.item}"
        return
    item = known.items[change.item]
    yield item_line(change.item, item)
    yield f"  prompt: {shortened(item.prompt, PROMPT)}"
    yield f"  reference: {shortened(item.reference, ANSWER)}"
    for side, given in ((comparison.before, before), (comparison.after, after)):
        if given is not None:
            yield f"  {side.name}: {_short(given.of(change.item))}"


def item_line(index: int, item: StoredItem) -> str:
    """The item's number and what is known of it."""
    labels = ", ".join(f"{name} {shortened(value, 40)}" for name, value in item.labels.items())
    return f"item {index} ({labels})" if labels else f"item {index}"


def _short(answers: StoredAnswers | None) -> str:
    if answers is None or not answers.samples:
        return "no answer"
    first = answers.samples[0]
    text = OMITTED if answers.omitted else shortened(first.text, ANSWER) or EMPTY
    more = len(answers.samples) - 1
    return f"{_words(first.category)}: {text}" + (f" (and {more} more)" if more else "")


def _grade(sample: StoredSample) -> str:
    parts = [f"{_words(sample.category)}, score {number(sample.score)}"]
    if sample.extracted is not None:
        parts.append(f"found {shortened(sample.extracted, ANSWER)!r}")
    if sample.detail:
        parts.append(shortened(sample.detail, PROMPT))
    parts.append(f"{sample.tokens} tokens" + (", cut" if sample.truncated else ""))
    return "; ".join(parts)


def _block(name: str, text: str) -> Iterator[str]:
    """A text of one line or of several, set off from what is around it."""
    lines: Sequence[str] = visible(text).split("\n")
    if len(lines) == 1:
        yield f"  {name}: {lines[0]}"
        return
    yield f"  {name}:"
    yield from (f"  | {line}" for line in lines)


def _words(category: str) -> str:
    return visible(category).replace("_", " ")
