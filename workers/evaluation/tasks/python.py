"""A grader of one's own: a function in a Python file."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hpo.spec.errors import InputError
from hpo.spec.tasks import PythonTask
from workers.evaluation.tasks.task import (
    CORRECT,
    FORMAT_FAILURE,
    NOT_ASKED,
    NOT_GRADABLE,
    WRONG_ANSWER,
    Grade,
    Graded,
    Item,
)
from workers.evaluation.tasks.wording import shown

KEYS = ("score", "category", "extracted", "detail")


class PythonGrader:
    """Calls the function with `answer`, `reference` and `fields`."""

    cheap = False

    def __init__(self, task: PythonTask) -> None:
        """Load the file.

        Raises InputError, with file and line, for one that is missing, that
        cannot be run or that lacks the function.
        """
        own = (CORRECT, WRONG_ANSWER, FORMAT_FAILURE)
        taken = sorted({*own, NOT_GRADABLE, NOT_ASKED} & set(task.categories))
        if taken:
            raise InputError(f"task.categories: given {taken[0]!r}; allowed: other names, once")
        self.categories: Sequence[str] = (*own, *dict.fromkeys(task.categories))
        self._where = f"{task.path}: {task.function}()"
        self._function = load_function(Path(task.path), task.function)

    def check(self, item: Item) -> None:
        """Any item will do."""

    def grade(self, item: Item, answer: str) -> Grade:
        """Judge one answer.

        Raises what the function raises, and ValueError for what it may not give.
        """
        given = self._function(answer=answer, reference=item.reference, fields=dict(item.fields))
        content = dict(given) if isinstance(given, Mapping) else {"score": given}
        strange = [key for key in content if key not in KEYS]
        if strange or "score" not in content:
            raise self._refusal(given, f"a mapping with {', '.join(KEYS)}; `score` is needed")
        score = self._score(content["score"])
        return Grade(
            self._category(content.get("category"), score),
            score,
            self._text(content, "extracted"),
            self._text(content, "detail") or "",
        )

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """Nothing besides the accuracy."""
        return {}

    def _score(self, given: Any) -> float:
        # numpy's and torch's values have `item`.
        plain = given.item() if hasattr(given, "item") else given
        score = float(plain) if isinstance(plain, int | float) else -1.0
        if not 0 <= score <= 1:
            raise self._refusal(given, "a truth value, a number from 0 to 1 or a mapping")
        return score

    def _category(self, given: Any, score: float) -> str:
        if given is None:
            return CORRECT if score == 1 else WRONG_ANSWER
        if given not in self.categories:
            raise self._refusal(given, f"one of {', '.join(self.categories)}, as `category`")
        wrong = given in (WRONG_ANSWER, FORMAT_FAILURE)
        if (given == CORRECT and score < 1) or (wrong and score == 1):
            raise self._refusal(f"{given} with score {score:g}", "`correct` with 1, and only it")
        return str(given)

    def _text(self, content: Mapping[str, Any], key: str) -> str | None:
        text = content.get(key)
        if text is not None and not isinstance(text, str):
            raise self._refusal(text, f"a text or None, as `{key}`")
        return None if text is None else shown(text)

    def _refusal(self, given: Any, allowed: str) -> ValueError:
        return ValueError(f"{self._where} gave {shown(repr(given), 80)}; allowed: {allowed}")


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """A function of a Python file, which is run under a module name of its own."""
    function = getattr(_load(path), name, None)
    if not callable(function):
        raise InputError(
            f"{path}: given no function {name!r}; allowed: a file that defines it, "
            "or the name of another one as task.function"
        )
    return function  # type: ignore[no-any-return]


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: given no such file; allowed: a Python file with a grader")
    name = f"hpo_grader_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_loader(name, None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    # Where classes and pickles look for the module they come from.
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{path}{_line(path, error)}: {_told(error)}") from error
    return module


def _line(path: Path, error: BaseException) -> str:
    """`:LINE` of the file where an error arose."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def _told(error: BaseException) -> str:
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}"
