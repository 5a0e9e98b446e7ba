"""A process that compares mathematical answers: `python -m workers.evaluation.grading.math_judge`.

math-verify can hang in sympy, and limits its own time with an alarm signal
that only a main thread gets. So it runs in processes of its own, which can be
killed. This one announces itself with a byte, then reads one JSON line
`[reference, answer]` after the other and writes one byte for each: 1 or 0.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time

READY = b"R"
RIGHT = b"1"
WRONG = b"0"

_MEMORY_BYTES = 4 << 30
_ITEM_CPU_SECONDS = 60
_BOXED = "\\boxed"
_MARK = "####"


def main() -> None:
    """Serve comparisons until standard input ends."""
    # Whatever a library prints must not be taken for an answer.
    replies = os.dup(1)
    os.dup2(2, 1)
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    is_right("1", "2")
    os.write(replies, READY)
    for line in sys.stdin:
        reference, answer = json.loads(line)
        _limit_time()
        os.write(replies, RIGHT if is_right(reference, answer) else WRONG)


def is_right(reference: str, answer: str) -> bool:
    """Whether two answers are mathematically equal.

    A reference is a solution with its result in `\\boxed{}` or after `####`,
    or the bare result. An answer is read the same way; failing that, its last
    formula or number counts.
    """
    from math_verify import verify

    wanted = _parsed(_as_boxed(reference))
    if verify(wanted, _parsed(answer)):
        return True
    # Bare LaTeX without delimiters is found only when it is put in a box.
    return _BOXED not in answer and bool(verify(wanted, _parsed(_as_boxed(answer))))


def _limit_time() -> None:
    """Have the kernel end this process if an item never ends and nobody is left to kill it."""
    used = int(time.process_time())
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (used + _ITEM_CPU_SECONDS, hard))


def _as_boxed(text: str) -> str:
    if _BOXED in text:
        return text
    result = text.rpartition(_MARK)[2].strip().strip("$")
    return f"{_BOXED}{{{result}}}"


def _parsed(text: str) -> list[object]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # A box is the answer, whatever other formulas surround it.
    configs = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    found: list[object] = parse(text, extraction_config=configs)
    return found


if __name__ == "__main__":
    main()
