"""Programs that are judged by what they write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hpo.spec.errors import InputError
from hpo.spec.tasks import ProgramTask
from workers.evaluation.sandbox.run import Program, Run, Sandbox
from workers.evaluation.tasks.running import (
    CRASHED,
    NO_CODE,
    SYNTAX_ERROR,
    TIMED_OUT,
    RunningGrader,
    last_words,
    limits_for,
    shortened,
    text_of,
)
from workers.evaluation.tasks.source import Parsed, blocks, looks_like_code, parse
from workers.evaluation.tasks.task import CORRECT, WRONG_ANSWER, Grade, Item


@dataclass(frozen=True)
class ProgramGrader(RunningGrader):
    """Runs a program on each test's input and compares what it writes."""

    task: ProgramTask
    sandbox: Sandbox

    def check(self, item: Item) -> None:
        """Raise InputError for tests that are not pairs of texts."""
        self._pairs(item)

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer; the first test that fails is the last one that is run."""
        pairs = self._pairs(item)
        parsed = _script(answer)
        if parsed is None:
            return Grade(NO_CODE, 0.0)
        if parsed.error is not None:
            return Grade(SYNTAX_ERROR, 0.0, parsed.code, shortened(parsed.error))
        seconds = self.task.timeout_seconds
        for number, (given, expected) in enumerate(pairs, 1):
            limits = limits_for(self.task, seconds, len(expected))
            run = self.sandbox.run(Program(parsed.code), given.encode(errors="replace"), limits)
            seconds = max(0.0, seconds - run.seconds)
            category = _category_of_output(run, expected)
            if category != CORRECT:
                detail = shortened(f"test {number} of {len(pairs)}: {last_words(run)}")
                return Grade(category, 0.0, parsed.code, detail)
        return Grade(CORRECT, 1.0, parsed.code)

    def _pairs(self, item: Item) -> list[tuple[str, str]]:
        field = self.task.tests
        try:
            tests = json.loads(text_of(item, field))
        except json.JSONDecodeError as error:
            raise InputError(f"the field {field!r} is no JSON: {error}") from error
        pairs = _pairs(tests)
        if not pairs:
            raise InputError(
                f"the field {field!r}: given {shortened(json.dumps(tests))}; allowed: a list of "
                "mappings with the texts input and output, or a mapping with a list of texts "
                "under each of these names; at least one test"
            )
        return pairs


def _pairs(tests: Any) -> list[tuple[str, str]] | None:
    """Inputs and outputs in either form; None where it is neither."""
    match tests:
        case {"input": list(inputs), "output": list(outputs)} if len(inputs) == len(outputs):
            pairs = list(zip(inputs, outputs, strict=True))
        case list(rows) if all(isinstance(row, dict) for row in rows):
            pairs = [(row.get("input"), row.get("output")) for row in rows]
        case _:
            return None
    texts = all(isinstance(text, str) for pair in pairs for text in pair)
    return pairs if texts else None


def _script(answer: str) -> Parsed | None:
    """The program in an answer; None where there is none."""
    fenced = blocks(answer)
    if not fenced and not looks_like_code(answer):
        return None
    found = [parse(code) for code in fenced or [answer]]
    return max(found, key=lambda one: (one.error is None, len(one.code)))


def _category_of_output(run: Run, expected: str) -> str:
    if run.ending == "timed_out":
        return TIMED_OUT
    if run.ending != "exited" or run.status != 0:
        return CRASHED
    written = run.output.decode(errors="replace")
    return CORRECT if _lines(written) == _lines(expected) else WRONG_ANSWER


def _lines(text: str) -> list[str]:
    """Lines without space at their ends; empty ones at the end do not count."""
    return [line.rstrip() for line in text.rstrip().split("\n")]
