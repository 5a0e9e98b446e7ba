"""The graders by their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from hpo.spec.tasks import (
    AnyTask,
    ChoiceTask,
    CodeTask,
    ExactTask,
    MathTask,
    NormalisedTask,
    NumericTask,
    ProgramTask,
    PythonTask,
    TextTask,
)
from workers.evaluation.tasks.choice import ChoiceGrader
from workers.evaluation.tasks.code import make_code_grader
from workers.evaluation.tasks.exact import ExactGrader
from workers.evaluation.tasks.math import MathGrader
from workers.evaluation.tasks.normalised import NormalisedGrader
from workers.evaluation.tasks.numeric import NumericGrader
from workers.evaluation.tasks.python import PythonGrader
from workers.evaluation.tasks.text import TextGrader

if TYPE_CHECKING:
    from workers.evaluation.sandbox.sandbox import Sandbox
    from workers.evaluation.tasks.task import Grader


def make_grader(task: AnyTask, *, sandbox: Sandbox | None = None) -> Grader:
    """The grader of a task; `code` and `program` need a sandbox.

    Raises InputError for a grader's file that cannot be loaded, and ValueError
    without the sandbox.
    """
    match task:
        case ExactTask():
            return ExactGrader()
        case NormalisedTask():
            return NormalisedGrader(task)
        case NumericTask():
            return NumericGrader(task)
        case MathTask():
            return MathGrader(task)
        case ChoiceTask():
            return ChoiceGrader(task)
        case TextTask():
            return TextGrader(task)
        case PythonTask():
            return PythonGrader(task)
        case CodeTask() | ProgramTask():
            if sandbox is None:
                raise ValueError(f"task {task.type} needs a sandbox")
            return make_code_grader(task, sandbox)
        case _:
            assert_never(task)
