"""Errors that are meant for a person.

    HpoError
    ├── SpecError           one or more problems in a study file
    ├── StudyError          a study is missing, taken, changed or in the wrong state
    ├── DatabaseError       the database cannot be reached or used
    ├── DeviceError         a stated device is not there
    ├── InputError          a model folder or a data file is missing or malformed
    └── OutputError         results cannot be written

Every one of them ends a command with its message on one line per problem and
exit code 2, never with a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HpoError(Exception):
    """What was given, what is allowed and what to do; shown as it is."""


class StudyError(HpoError):
    """A study is missing, its name is taken, or it was changed."""


class DatabaseError(HpoError):
    """The database cannot be reached or used."""


class DeviceError(HpoError):
    """A stated device is not there."""


class InputError(HpoError):
    """A model folder or a data file is missing or malformed."""


class OutputError(HpoError):
    """Results cannot be written."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a study file.

    `path` is the dotted path of the field, `given` what stood there and
    `allowed` what may stand there.
    """

    path: str
    given: str
    allowed: str

    def line(self, file: str) -> str:
        """The problem as one line, led by the file it was found in."""
        where = f"{file}: {self.path}" if self.path else file
        return f"{where}: given {self.given}; allowed: {self.allowed}"


class SpecError(HpoError):
    """All problems of one study file, reported at once."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.line(file) for problem in problems))
