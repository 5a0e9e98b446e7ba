"""What graders that run answers have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from hpo.spec.errors import InputError
from hpo.spec.tasks import SandboxedTask
from workers.evaluation.sandbox.run import Limits, Run
from workers.evaluation.tasks.task import CORRECT, WRONG_ANSWER, Graded, Item

CRASHED, TIMED_OUT = "crashed", "timed_out"
SYNTAX_ERROR, NO_CODE = "syntax_error", "no_code"
CATEGORIES = (CORRECT, WRONG_ANSWER, CRASHED, TIMED_OUT, SYNTAX_ERROR, NO_CODE)

_PARSED = frozenset((CORRECT, WRONG_ANSWER, CRASHED, TIMED_OUT))
_DETAIL_CHARACTERS = 300


class RunningGrader:
    """Judges answers by running them."""

    categories: Sequence[str] = CATEGORIES
    cheap = False

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Of all answers: `generation_rate`, those with code, and `parse_rate`, that parses."""
        found = [grade.category for item in graded for grade in item.grades]
        answers = max(1, len(found))
        parsed = sum(category in _PARSED for category in found)
        failed = sum(category == SYNTAX_ERROR for category in found)
        return {"generation_rate": (parsed + failed) / answers, "parse_rate": parsed / answers}


def limits_for(task: SandboxedTask, seconds: float, expected: int = 0) -> Limits:
    """The limits of a run. Twice what is expected may be written, and always some megabytes."""
    return Limits(seconds, task.memory_mib, output_bytes=(4 << 20) + 2 * expected)


def text_of(item: Item, name: str) -> str:
    """The text in a field of an item's row; raises InputError where it is missing."""
    if name not in item.fields:
        raise InputError(f"the field {name!r} is missing; it is needed for grading")
    return item.fields[name]


def last_words(run: Run) -> str:
    """Why it did not pass, in a line."""
    errors = run.errors.decode(errors="replace").strip()
    if errors and run.ending == "exited":
        return shortened(errors.rsplit("\n", 1)[-1])
    match run.ending:
        case "timed_out":
            return f"not done after {run.seconds:.1f} s"
        case "out_of_memory":
            return "out of memory"
        case "too_much_output":
            return "too much output"
        case "killed":
            return f"ended with status {run.status}"
        case "exited":
            return f"ended with status {run.status}" if run.status else "other output"
        case _:
            assert_never(run.ending)


def shortened(text: str) -> str:
    """Cut to what a table can show; of a long one the end says most."""
    return text if len(text) <= _DETAIL_CHARACTERS else f"...{text[-_DETAIL_CHARACTERS:]}"
