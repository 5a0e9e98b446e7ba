"""Functions that are judged by tests which call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from hpo.spec.errors import InputError
from hpo.spec.tasks import CodeTask, ProgramTask
from workers.evaluation.sandbox.run import Program, Run, Sandbox
from workers.evaluation.tasks.program import ProgramGrader
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
from workers.evaluation.tasks.source import (
    Parsed,
    blocks,
    continued,
    looks_like_code,
    parse,
    salvaged,
)
from workers.evaluation.tasks.task import CORRECT, WRONG_ANSWER, Grade, Grader, Item


def make_code_grader(task: CodeTask | ProgramTask, sandbox: Sandbox) -> Grader:
    """A grader that runs answers in `sandbox`."""
    match task:
        case CodeTask():
            return CodeGrader(task, sandbox)
        case ProgramTask():
            return ProgramGrader(task, sandbox)
        case _:
            assert_never(task)


@dataclass(frozen=True)
class CodeGrader(RunningGrader):
    """Runs an answer's code and then the tests that call it, in one process."""

    task: CodeTask
    sandbox: Sandbox

    def check(self, item: Item) -> None:
        """Raise InputError for tests that do not parse or a function that is not named."""
        parsed = parse(text_of(item, self.task.tests))
        if parsed.error is not None:
            raise InputError(f"the field {self.task.tests!r} is no Python: {parsed.error}")
        if self.task.entry_point is not None:
            name = text_of(item, self.task.entry_point)
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
            text_of(item, self.task.continues)

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer."""
        entry = item.fields[self.task.entry_point] if self.task.entry_point is not None else None
        start = item.fields[self.task.continues] if self.task.continues is not None else None
        parsed = _function(answer, entry, start)
        if parsed is None:
            return Grade(NO_CODE, 0.0)
        if parsed.error is not None:
            return Grade(SYNTAX_ERROR, 0.0, parsed.code, shortened(parsed.error))
        tests = _tests(item.fields[self.task.tests], entry)
        # The whole function stands alone: what it may use comes before it.
        context = start if start is not None and not parsed.code.startswith(start) else ""
        context = context if parse(context).error is None else ""
        program = Program(parsed.code, tests, context)
        run = self.sandbox.run(program, b"", limits_for(self.task, self.task.timeout_seconds))
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
    return "ended before the tests had passed" if left else last_words(run)


def _category(run: Run) -> str:
    # Said when the last test had passed; what a thread of its own did then is nothing to us.
    if run.finished:
        return CORRECT
    if run.ending == "timed_out":
        return TIMED_OUT
    return WRONG_ANSWER if run.report == "failed" else CRASHED
