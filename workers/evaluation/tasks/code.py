"""Code that is judged by running it: functions against tests, programs against outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from hpo.spec.errors import InputError
from hpo.spec.tasks import CodeTask, ProgramTask
from workers.evaluation.sandbox.run import Limits, Program, Run, Sandbox
from workers.evaluation.tasks.source import (
    Parsed,
    blocks,
    continued,
    looks_like_code,
    parse,
    salvaged,
)
from workers.evaluation.tasks.task import CORRECT, WRONG_ANSWER, Grade, Graded, Grader, Item

CRASHED, TIMED_OUT = "crashed", "timed_out"
SYNTAX_ERROR, NO_CODE = "syntax_error", "no_code"
CATEGORIES = (CORRECT, WRONG_ANSWER, CRASHED, TIMED_OUT, SYNTAX_ERROR, NO_CODE)

_PARSED = frozenset((CORRECT, WRONG_ANSWER, CRASHED, TIMED_OUT))
_DETAIL_CHARACTERS = 300


def make_code_grader(task: CodeTask | ProgramTask, sandbox: Sandbox) -> Grader:
    """A grader that runs answers in `sandbox`."""
    match task:
        case CodeTask():
            return CodeGrader(task, sandbox)
        case ProgramTask():
            return ProgramGrader(task, sandbox)
        case _:
            assert_never(task)


class _RunningGrader:
    """What both have in common."""

    categories: Sequence[str] = CATEGORIES
    cheap = False

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Of all answers: `generation_rate`, those with code, and `parse_rate`, that parses."""
        found = [grade.category for item in graded for grade in item.grades]
        answers = max(1, len(found))
        parsed = sum(category in _PARSED for category in found)
        failed = sum(category == SYNTAX_ERROR for category in found)
        return {"generation_rate": (parsed + failed) / answers, "parse_rate": parsed / answers}


@dataclass(frozen=True)
class CodeGrader(_RunningGrader):
    """Runs an answer's code and then the tests that call it, in one process."""

    task: CodeTask
    sandbox: Sandbox

    def check(self, item: Item) -> None:
        """Raise InputError for tests that do not parse or a function that is not named."""
        parsed = parse(_field(item, self.task.tests))
        if parsed.error is not None:
            raise InputError(f"the field {self.task.tests!r} is no Python: {parsed.error}")
        if self.task.entry_point is not None:
            name = _field(item, self.task.entry_point)
            if not name.isidentifier():
                raise InputError(
                    f"the field {self.task.entry_point!r}: given {name!r}; allowed: the name of "
                    "the function that is tested"
                )
        elif "check" in parsed.defines:
            raise InputError(
                f"the tests in the field {self.task.tests!r} define check(candidate), but "
                "entry_point is null: name the field with the candidate's name there"
            )
        if self.task.continues is not None:
            _field(item, self.task.continues)

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer."""
        entry = item.fields[self.task.entry_point] if self.task.entry_point is not None else None
        start = item.fields[self.task.continues] if self.task.continues is not None else None
        parsed = _function(answer, entry, start)
        if parsed is None:
            return Grade(NO_CODE, 0.0)
        if parsed.error is not None:
            return Grade(SYNTAX_ERROR, 0.0, parsed.code, _short(parsed.error))
        tests = _tests(item.fields[self.task.tests], entry)
        # The whole function stands alone: what it may use comes before it.
        context = start if start is not None and not parsed.code.startswith(start) else ""
        context = context if parse(context).error is None else ""
        program = Program(parsed.code, tests, context)
        run = self.sandbox.run(program, b"", _limits(self.task, self.task.timeout_seconds))
        category = _category(run)
        return Grade(category, float(category == CORRECT), parsed.code, _why(run))


def _function(answer: str, entry: str | None, start: str | None) -> Parsed | None:
    """The code of an answer; None where there is none."""
    fenced = blocks(answer)
    found = [parse(code) for code in fenced or [answer]]
    whole = [one for one in found if one.error is None and (entry is None or entry in one.defines)]
    if not fenced and not looks_like_code(answer):
        return None
    if not whole and entry is not None:
        saved = (salvaged(code, entry) for code in fenced or [answer])
        whole = [one for one in saved if one is not None]
    if whole:
        # A later one is the improved one; where nothing tells the solution
        # from an example of its use, it is the longest.
        return whole[-1] if entry is not None else max(whole, key=lambda one: len(one.code))
    if start is not None:
        return continued(start, max(fenced, key=len) if fenced else answer)
    return max(found, key=lambda one: (one.error is None, len(one.code)))


def _tests(tests: str, entry: str | None) -> str:
    if entry is not None and "check" in parse(tests).defines:
        return f"{tests}\n\ncheck({entry})\n"
    return tests


def _why(run: Run) -> str:
    if run.finished:
        return ""
    left = run.ending == "exited" and run.report in (None, "exited")
    return "ended before the tests had passed" if left else _detail(run)


def _category(run: Run) -> str:
    # Said when the last test had passed; what a thread of its own did then is nothing to us.
    if run.finished:
        return CORRECT
    if run.ending == "timed_out":
        return TIMED_OUT
    return WRONG_ANSWER if run.report == "failed" else CRASHED


@dataclass(frozen=True)
class ProgramGrader(_RunningGrader):
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
            return Grade(SYNTAX_ERROR, 0.0, parsed.code, _short(parsed.error))
        seconds = self.task.timeout_seconds
        for number, (given, expected) in enumerate(pairs, 1):
            limits = _limits(self.task, seconds, len(expected))
            run = self.sandbox.run(Program(parsed.code), given.encode(errors="replace"), limits)
            seconds = max(0.0, seconds - run.seconds)
            category = _category_of_output(run, expected)
            if category != CORRECT:
                detail = _short(f"test {number} of {len(pairs)}: {_detail(run)}")
                return Grade(category, 0.0, parsed.code, detail)
        return Grade(CORRECT, 1.0, parsed.code)

    def _pairs(self, item: Item) -> list[tuple[str, str]]:
        field = self.task.tests
        try:
            tests = json.loads(_field(item, field))
        except json.JSONDecodeError as error:
            raise InputError(f"the field {field!r} is no JSON: {error}") from error
        pairs = _pairs(tests)
        if not pairs:
            raise InputError(
                f"the field {field!r}: given {_short(json.dumps(tests))}; allowed: a list of "
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


def _limits(task: CodeTask | ProgramTask, seconds: float, expected: int = 0) -> Limits:
    """Twice what is expected may be written, and always some megabytes."""
    return Limits(seconds, task.memory_mib, output_bytes=(4 << 20) + 2 * expected)


def _field(item: Item, name: str) -> str:
    if name not in item.fields:
        raise InputError(f"the field {name!r} is missing; it is needed for grading")
    return item.fields[name]


def _detail(run: Run) -> str:
    """Why it did not pass, in a line."""
    errors = run.errors.decode(errors="replace").strip()
    if errors and run.ending == "exited":
        return _short(errors.rsplit("\n", 1)[-1])
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
            return (
                f"ended with status {run.status} before its end" if run.status else "other output"
            )
        case _:
            assert_never(run.ending)


def _short(text: str) -> str:
    """Cut to what a table can show; of a long one the end says most."""
    return text if len(text) <= _DETAIL_CHARACTERS else f"...{text[-_DETAIL_CHARACTERS:]}"
