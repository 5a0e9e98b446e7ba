"""A process that grades: `python -m workers.evaluation.grading.judge PARENT`.

Graders can hang, crash, or limit their own time with an alarm signal that only
a main thread gets. So they run in processes of their own, which can be killed.
This one reads an assignment, then question after question, from standard
input, and writes a reply to each; see `messages`. It ends with the process
PARENT, by the kernel's doing on Linux; elsewhere when its input ends, or when
an endless question has used up its processor time.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from contextlib import suppress
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import BinaryIO

import psutil

from hpo.parent import stop_with_parent
from hpo.spec.errors import InputError
from hpo.spec.identity import fingerprint
from hpo.spec.tasks import PythonTask, SandboxedTask
from workers.evaluation.grading.assignment import Assignment, decode_assignment
from workers.evaluation.grading.judging import judged, reason, refusal
from workers.evaluation.grading.messages import (
    MEMORY_BYTES,
    OUT_OF_MEMORY,
    Question,
    Reply,
    decode_question,
    encode_reply,
)
from workers.evaluation.sandbox.run import SandboxError
from workers.evaluation.tasks.catalogue import make_grader
from workers.evaluation.tasks.task import Grader

GROWTH_BYTES = 256 << 20
"""A judge that has grown by this much since its first question is replaced."""
_SPARE_SECONDS = 10


def main() -> None:
    """Serve until standard input ends."""
    stop_with_parent(int(sys.argv[1]))
    questions, replies = _own_pipes()
    # Warnings about odd answers are for nobody.
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(questions, replies)
    # Threads that a grader has left behind must not keep the process.
    os._exit(0)


def serve(questions: BinaryIO, replies: BinaryIO) -> None:
    """Get ready for the assignment in the first line, then reply to each further one."""
    line = questions.readline()
    if not line:
        return
    try:
        assignment = decode_assignment(line)
        grader = _ready_grader(assignment)
    except (Exception, SystemExit) as error:
        _send(replies, Reply(0, refused=reason(error)))
        return
    _send(replies, Reply(0))
    grown = Growth()
    for line in questions:
        _limit_time(assignment.seconds)
        reply = _reply(grader, assignment, decode_question(line, assignment.items))
        _send(replies, replace(reply, retiring=grown()))


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, out of reach of what graders print and read."""
    questions, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return questions, replies


def _ready_grader(assignment: Assignment) -> Grader:
    """The task's grader, with all that it imports when it is first used."""
    grader = _grader(assignment)
    with suppress(InputError):
        for item in assignment.items[:1]:
            grader.check(item)
    return grader


def _grader(assignment: Assignment) -> Grader:
    task = assignment.task
    if isinstance(task, PythonTask):
        _require_unchanged(task, assignment.fingerprint)
    if not isinstance(task, SandboxedTask):
        return make_grader(task)
    from workers.evaluation.sandbox.sandbox import find_sandbox

    return make_grader(task, sandbox=find_sandbox())


def _require_unchanged(task: PythonTask, expected: str | None) -> None:
    """Two graders must never share one study's answers. Raises InputError."""
    there = Path(task.path).is_file()
    if there and expected is not None and fingerprint(task.path) != expected:
        raise InputError(
            f"{task.path}: given a grader that was changed while it was in use; allowed: the "
            "file as it was, or a study of another name for the changed one"
        )


def _reply(grader: Grader, assignment: Assignment, question: Question) -> Reply:
    """The reply to a question; ends the process where memory does not suffice."""
    item = assignment.items[question.index]
    try:
        if question.answer is not None:
            return Reply(question.ticket, judged(grader, item, question.answer))
        if question.graded:
            return Reply(question.ticket, measures=dict(grader.measures(question.graded)))
        refused = refusal(grader, item)
        return Reply(question.ticket, refused=refused, categories=tuple(grader.categories))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except SandboxError as error:
        return Reply(question.ticket, unable=f"the sandbox does not work: {error}")
    except Exception as error:
        return Reply(question.ticket, refused=reason(error))


class Growth:
    """Whether this process has grown much since it was first asked.

    Not since its start: a grader may load something large at its first use.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._first: int | None = None

    def __call__(self) -> bool:
        """Look at its size."""
        size = self._process.memory_info().rss
        if self._first is None:
            self._first = size
        return bool(size - self._first > GROWTH_BYTES)


def _limit_time(seconds: float) -> None:
    """Have the kernel end this process over an endless question that nobody is left to end."""
    used = time.process_time()
    allowed = ceil(used + seconds * (os.cpu_count() or 1)) + _SPARE_SECONDS
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _send(replies: BinaryIO, reply: Reply) -> None:
    line = memoryview(encode_reply(reply))
    while line:
        line = line[replies.write(line) :]


if __name__ == "__main__":
    main()
