"""What is asked of a model and how its answers are graded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_validator,
)

from hpo.spec.base import (
    NonNegativeFloat,
    NonNegativeInt,
    NotBoolean,
    PositiveFloat,
    PositiveInt,
    Strict,
    broken_rule,
)

FieldName = Annotated[str, Field(min_length=1)]
MOST_SAMPLES = 1000
"""Answers to one prompt."""


class ExactTask(Strict):
    """The answer is the reference, but for space around it."""

    type: Literal["exact"] = "exact"


class NormalisedTask(Strict):
    """The answer is the reference, but for what does not matter.

    Space counts as one blank and Unicode forms as their compatible ones (NFKC).
    """

    type: Literal["normalised"]
    ignore_case: bool = True
    """Capital letters are small ones."""
    ignore_punctuation: bool = True
    """Punctuation is left out."""
    ignore_articles: bool = False
    """`a`, `an` and `the` are left out."""


class NumericTask(Strict):
    """The number of the answer is the reference's.

    That is the first behind the last `####`, else the last in a box or in
    `<answer>` tags, else the last of all.
    """

    type: Literal["numeric"]
    tolerance: NonNegativeFloat = 0.0
    """Largest difference, relative to the reference's number, that still counts as right."""


class MathTask(Strict):
    """The final answer equals the reference's, as mathematics (math-verify)."""

    type: Literal["math"]
    answer: Literal["any", "hashes", "boxed", "tag", "last"] = "any"
    """Where the final answer stands: behind `####`, in `\\boxed{}`, in
    `<answer>` tags, or as the last formula or number; an answer without it has
    the wrong format. `any` takes the first three where one is there, else the last."""


class ChoiceTask(Strict):
    """The letter of the right choice, which the reference begins with."""

    type: Literal["choice"]
    letters: Annotated[str, Field(min_length=2, pattern="^[A-Z]+$")] = "ABCD"
    """Letters of the choices, capital ones."""

    @model_validator(mode="after")
    def letters_differ(self) -> ChoiceTask:
        """One letter, one choice."""
        if len(set(self.letters)) < len(self.letters):
            raise broken_rule("letters", repr(self.letters), "different letters")
        return self


class SandboxedTask(Strict):
    """Python code that is run in a sandbox, without network or files."""

    timeout_seconds: PositiveFloat = 10.0
    """Seconds that an answer may run with all its tests, in wall-clock time."""
    memory_mib: Annotated[int, Field(ge=64), NotBoolean] = 512
    """MiB of memory that an answer may take."""


class CodeTask(SandboxedTask):
    """Python code that passes tests which call it, as HumanEval has them."""

    type: Literal["code"]
    tests: FieldName = "test"
    """Field with the tests: Python code that raises when one fails, and that may
    define `check(candidate)`."""
    entry_point: FieldName | None = "entry_point"
    """Field with the name of the function that is tested; null where the tests
    call it by its name."""
    continues: FieldName | None = "prompt"
    """Field with the code that an answer goes on with when it does not define the
    tested function itself; null for none."""

    def fields(self) -> tuple[str, ...]:
        """Fields of the rows that are needed for grading."""
        named = (self.tests, self.entry_point, self.continues)
        return tuple(name for name in named if name is not None)


class ProgramTask(SandboxedTask):
    """A Python program that reads standard input and writes standard output."""

    type: Literal["program"]
    tests: FieldName = "tests"
    """Field with the tests: a list of mappings with `input` and `output`, or a
    mapping with a list under each of these names."""

    def fields(self) -> tuple[str, ...]:
        """Fields of the rows that are needed for grading."""
        return (self.tests,)


class TextTask(Strict):
    """Free text, measured against the reference by sacrebleu."""

    type: Literal["text"]
    measure: Literal["chrf", "bleu"] = "chrf"
    """The accuracy is the mean of this measure over the sentences, from 0 to 1;
    both are given for the whole set besides."""


class PythonTask(Strict):
    """A grader of one's own: a function in a Python file."""

    type: Literal["python"]
    path: Annotated[str, Field(min_length=1)]
    """The file. It is run as it is, outside the sandbox."""
    function: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = "grade"
    """Called with `answer`, `reference` and `fields` (texts by name); gives a truth
    value, a number from 0 to 1, or a mapping with `score` and perhaps
    `category`, `extracted` and `detail`."""
    fields: tuple[FieldName, ...] = ()
    """Fields of the rows that the function needs."""
    categories: tuple[FieldName, ...] = ()
    """Categories that the function may give besides `correct`, `wrong_answer`
    and `format_failure`."""


AnyTask = Annotated[
    ExactTask
    | NormalisedTask
    | NumericTask
    | MathTask
    | ChoiceTask
    | CodeTask
    | ProgramTask
    | TextTask
    | PythonTask,
    Field(discriminator="type"),
]


def _named(value: Any) -> Any:
    """A task's name alone means it with its defaults."""
    return {"type": value} if isinstance(value, str) else value


def _short(task: Any, handler: SerializerFunctionWrapHandler) -> Any:
    """The name where everything else is a default, as a study file would have it."""
    content = handler(task)
    plain = isinstance(task, Strict) and task.model_dump(exclude_defaults=True).keys() <= {"type"}
    return task.type if plain else content


Task = Annotated[AnyTask, BeforeValidator(_named), WrapSerializer(_short)]


def fields_of(task: AnyTask) -> tuple[str, ...]:
    """Fields of the rows that grading needs beside the completion."""
    if isinstance(task, CodeTask | ProgramTask):
        return task.fields()
    return task.fields if isinstance(task, PythonTask) else ()


def _stop_texts(value: tuple[str, ...]) -> tuple[str, ...]:
    if "" in value:
        raise ValueError("texts that are not empty")
    return value


class Decoding(Strict):
    """How answers are written."""

    temperature: NonNegativeFloat = 0.0
    """0 is greedy: the likeliest token at each place."""
    top_p: Annotated[float, Field(gt=0, le=1), NotBoolean] = 1.0
    """Only the likeliest tokens that together reach this probability are drawn from."""
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES), NotBoolean] = 1
    """Answers to each prompt."""
    seed: NonNegativeInt = 0
    """Draws the samples; the same seed, item and sample draw alike for every checkpoint."""
    stop: Annotated[tuple[str, ...], AfterValidator(_stop_texts)] = ()
    """Texts that end an answer; they are not part of it."""
    pass_at: tuple[PositiveInt, ...] = ()
    """Numbers k for which pass@k is estimated (arXiv:2107.03374), each at most `samples`."""

    @model_validator(mode="after")
    def nothing_is_ignored(self) -> Decoding:
        """Greedy answers are all the same, and drawn from nothing."""
        if self.temperature == 0:
            for name in ("top_p", "samples", "seed"):
                given = getattr(self, name)
                if given != type(self).model_fields[name].default:
                    raise broken_rule(name, repr(given), "nothing with temperature 0, as greedy")
        for k in self.pass_at:
            if k > self.samples:
                allowed = f"at most the {self.samples} samples of each prompt"
                raise broken_rule("pass_at", repr(k), allowed)
        return self
