"""A quality score per example, from 0 to 1. The computed one is ours."""

from __future__ import annotations

import statistics

from hpo.spec.cleaning import ComputedQuality, FieldQuality
from workers.answers import marks, numbers
from workers.answers.same import same_answer
from workers.data.cleaning import fences
from workers.data.example import Example, RowProblem, UnusableRow

FULL_LENGTH = 40
"""Characters of a completion from which it is not short; the score rises to there from 0."""
LONG = 4_000
"""Characters from which a completion is long; the score falls from there ..."""
TOO_LONG = 16_000
"""... to 0 here."""

_ENDS = tuple(".!?\u3002\uff01\uff1f\"'\u201d\u2019\u00bb)]}>|*`$")
"""Marks of a sentence's end, and what closes brackets, quotations and the like."""


def score(example: Example, spec: FieldQuality | ComputedQuality) -> float:
    """The quality of an example, from 0 to 1.

    Computed, it is the mean of the parts asked for; `agreement` is left out for
    an example without a known answer, and where no part is left it is 1.

    Raises UnusableRow where the data should bring a score and brings none
    from 0 to 1.
    """
    if isinstance(spec, FieldQuality):
        return _given(example, spec)
    measured = [_part(name, example) for name in spec.parts]
    return statistics.fmean([value for value in measured if value is not None] or [1.0])


def _given(example: Example, spec: FieldQuality) -> float:
    value, allowed = example.quality, "a number from 0 to 1"
    if value is None:
        given = f"no `{spec.field}`"
        raise UnusableRow(RowProblem(example.where, "missing field", given, allowed))
    if not 0 <= value <= 1:
        given = f"`{spec.field}` of {value}"
        raise UnusableRow(RowProblem(example.where, "wrong type", given, allowed))
    return value


def _part(name: str, example: Example) -> float | None:
    completion = example.completion
    match name:
        case "length":
            return length(len(completion.strip()))
        case "completeness":
            return completeness(completion)
        case "code":
            return code(completion)
        case _:
            return agreement(completion, example.answer)


def length(characters: int) -> float:
    """How far a completion is neither short nor long: a trapezoid over its characters."""
    rising = characters / FULL_LENGTH
    falling = (TOO_LONG - characters) / (TOO_LONG - LONG)
    return max(0.0, min(1.0, rising, falling))


def completeness(completion: str) -> float:
    """1 for a completion that has an end and closes its code blocks, else 0.

    An end is the mark of a sentence, a closed block, bracket or quotation, a
    number, a final answer, or the last line of Python code. '...' is none.
    """
    text = completion.rstrip()
    if not text or text.endswith(("...", "\u2026")):
        return 0.0
    if any(not block.closed for block in fences.blocks(completion)):
        return 0.0
    return 1.0 if _has_end(text) else 0.0


def _has_end(text: str) -> bool:
    if text.endswith(_ENDS) or text[-1].isdigit():
        return True
    _, hashes, answer = text.rpartition(marks.HASHES)
    return bool(hashes and "\n" not in answer) or fences.is_python(text)


def code(completion: str) -> float:
    """The share of a completion's Python blocks that parse; 1 where there are none."""
    found = [block for block in fences.blocks(completion) if block.language == "python"]
    return statistics.fmean(float(_parses(block)) for block in found) if found else 1.0


def _parses(block: fences.Block) -> bool:
    return fences.python_tree(block.code) is not None


def agreement(completion: str, known: str | None) -> float | None:
    """1 where the final answer is the known one, else 0; None where none is known.

    A completion without a marked final answer states it on its last line,
    alone or as the last number there. The known answer may be a worked
    solution with a marked one.
    """
    if known is None:
        return None
    marked = marks.final_answer(known)
    wanted = known.strip() if marked is None else marked[1]
    stated = _stated(completion)
    return float(any(same_answer(answer, wanted) for answer in stated))


def _stated(completion: str) -> list[str]:
    final = marks.final_answer(completion)
    if final is not None:
        return [final[1]]
    line = completion.strip().rpartition("\n")[2]
    number = numbers.last_number(line)
    return [line] if number is None else [line, number.text]
