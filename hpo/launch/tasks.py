"""Looks at what grading a study's answers needs, before anything is started."""

from __future__ import annotations

from hpo.spec.errors import InputError
from hpo.spec.study import StudySpec
from hpo.spec.tasks import PythonTask, SandboxedTask


def check_graders(spec: StudySpec) -> None:
    """Load graders of the study's own. Raises InputError naming the field and the file."""
    for name, part in spec.data.answered_sets().items():
        if isinstance(part.task, PythonTask):
            # Light: graders need neither torch nor vLLM.
            from workers.evaluation.tasks.catalogue import make_grader

            try:
                make_grader(part.task)
            except InputError as error:
                raise InputError(f"data.{name}.task: {error}") from error


def check_sandbox(spec: StudySpec) -> None:
    """Prove that code can be run safely here, where the study runs some.

    Raises InputError that says what to install.
    """
    for name, part in spec.data.answered_sets().items():
        if isinstance(part.task, SandboxedTask):
            from workers.evaluation.sandbox.sandbox import find_sandbox

            try:
                find_sandbox()
            except InputError as error:
                raise InputError(f"data.{name}.task: given {part.task.type!r}; {error}") from error
            return
