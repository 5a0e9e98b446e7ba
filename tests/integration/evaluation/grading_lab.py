"""A user's grader that does on demand whatever a grader can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpo.spec.tasks import PythonTask
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.tasks.task import Grade, Item

SOURCE = """
import ctypes, os, subprocess, sys, time

seen = []
hoard = []

def grade(answer, reference, fields):
    seen.append(answer)
    what, _, number = answer.partition(" ")
    if what == "sleep":
        time.sleep(float(number))
    elif what == "spin":
        while True:
            pass
    elif what == "children":
        subprocess.Popen(["sleep", number])
        time.sleep(600)
    elif what == "exit":
        os._exit(3)
    elif what == "quit":
        sys.exit(4)
    elif what == "segfault":
        ctypes.string_at(0)
    elif what == "memory":
        hoard.append(bytearray(5 << 30))
    elif what == "leak":
        hoard.append(b"x" * (100 << 20))
    elif what == "raise":
        raise LookupError("no such thing")
    elif what == "sandbox":
        from workers.evaluation.sandbox.run import SandboxError
        raise SandboxError("it is gone")
    elif what == "odd":
        return {"score": 1, "category": "splendid"}
    elif what == "talk":
        print("to whom it may concern", flush=True)
        os.write(1, b'{"ticket": 1}\\n')
        return sys.stdin.read() == ""
    elif what == "heavy":
        return not {"torch", "vllm", "transformers"} & set(sys.modules)
    elif what == "process":
        return {"score": 1, "extracted": str(os.getpid())}
    elif what == "seen":
        return {"score": 1, "extracted": ",".join(seen)}
    return {"score": reference in (answer, "any"), "extracted": answer}
"""


def own_task(folder: Path, source: str = SOURCE) -> PythonTask:
    path = folder / "grader.py"
    path.write_text(source)
    return PythonTask(type="python", path=str(path))


def items(number: int, name: str = "item") -> list[Item]:
    return [Item(f"{name} {index}", f"answer {index}") for index in range(number)]


ANY = [Item(f"any {index}", "any") for index in range(60)]
"""Always the same set, so that judges need not be replaced."""


def graded(pool: GradingPool, task: PythonTask, answers: Sequence[str]) -> list[Grade]:
    """The grades of answers that are all right."""
    with pool.begin(task, ANY) as grading:
        for index, answer in enumerate(answers):
            grading.submit(index, 0, answer)
        return [grade for grades in grading.grades() for grade in grades]
