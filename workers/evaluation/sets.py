"""The frozen evaluation sets of a study: what the loss is summed over, and what is asked."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten
from typing import TYPE_CHECKING

from hpo.spec.errors import InputError
from hpo.spec.identity import fingerprint
from hpo.spec.sources import GenerationData
from hpo.spec.tasks import (
    AnyTask,
    Decoding,
    ExactTask,
    MathTask,
    NormalisedTask,
    NumericTask,
    PythonTask,
)
from workers.data.example import Example
from workers.data.preparing.prepared import PreparedData
from workers.data.preparing.survey import load_encoder
from workers.data.tokens.encoder import Encoder
from workers.evaluation.engines.engines import Writing
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.tasks.task import NOT_GRADABLE, Grade, Item
from workers.session import StudySession

if TYPE_CHECKING:
    from workers.data.tokens.encoded import EncodedExample

logger = logging.getLogger(__name__)

VALIDATION, TEST = "validation", "test"
"""Names of the sets: what trials are judged by, and what only the winner is scored on."""
ITEMS_CHECKED = 16
"""Items whose own answers are graded at the start, where that takes more than microseconds."""
PLAIN = (ExactTask, NormalisedTask, NumericTask)
"""Tasks that are so quick that every item's own answer is graded."""
SURE = (*PLAIN, MathTask)
"""Tasks by which an item's own answer must be right; others may have odd references."""


@dataclass(frozen=True)
class GenerationSet:
    """Prompts on which answers are generated, with what they are graded against."""

    items: Sequence[Item]
    prompts: Sequence[Sequence[int]]
    """Token ids."""
    task: AnyTask
    max_new_tokens: int
    decoding: Decoding
    by: Sequence[str] = ()
    """Labels of the items by which the accuracy is broken down."""
    perfect: Sequence[str] = ()
    """What a model that learned the items would answer."""
    stop_token_ids: Sequence[int] = ()
    """End tokens besides the model's own, such as a chat template's."""

    @property
    def longest(self) -> int:
        """Most tokens of a prompt with its answer."""
        return max((len(prompt) for prompt in self.prompts), default=0) + self.max_new_tokens

    @property
    def writing(self) -> Writing:
        """How the set is answered."""
        return Writing(self.prompts, self.max_new_tokens, self.decoding, self.stop_token_ids)

    @cached_property
    def hash(self) -> str:
        """The same for sets whose outcomes can be compared item by item."""
        items = [[i.prompt, i.reference, dict(i.fields), dict(i.labels)] for i in self.items]
        # Without defaults: a task that gains an option later stays the same task.
        task = self.task.model_dump(mode="json", exclude_defaults=True) | {"type": self.task.type}
        content = json.dumps([items, task], sort_keys=True)
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


@dataclass(frozen=True)
class EvaluationSets:
    """What a checkpoint is scored on."""

    loss: Sequence[EncodedExample]
    generation: GenerationSet | None = None


def load_sets(session: StudySession) -> dict[str, EvaluationSets]:
    """Prepare the evaluation sets, once: `validation`, and `test` where there is one.

    Raises InputError when one is missing, malformed or empty.
    """
    data = session.spec.data
    prepared = session.data()
    encoder = load_encoder(session.spec.model.path, data, prepared.shots)
    max_length = max(session.search.max_lengths())
    items = {
        name: generation_set(prepared, name, part, encoder)
        for name, part in data.answered_sets().items()
    }
    losses = {VALIDATION: "loss", TEST: "test"} if data.test is not None else {VALIDATION: "loss"}
    return {
        name: EvaluationSets(
            _loss_set(prepared, loss, max_length),
            items.get("generation" if name == VALIDATION else "test"),
        )
        for name, loss in losses.items()
    }


def _loss_set(prepared: PreparedData, name: str, max_length: int) -> Sequence[EncodedExample]:
    cut = prepared.encoded(name).cut(max_length)
    if cut.truncated or cut.dropped:
        logger.warning(
            "%s set: %d examples cut and %d left out at %d tokens",
            name,
            cut.truncated,
            cut.dropped,
            max_length,
        )
    if not len(cut.examples):
        raise InputError(
            f"data.{name}: nothing that is learned is left of it at {max_length} tokens; "
            "allowed: a larger training.max_length"
        )
    return cut.examples


def generation_set(
    prepared: PreparedData, name: str, spec: GenerationData, encoder: Encoder
) -> GenerationSet:
    """A set of prompts, with all that its task needs."""
    examples = prepared.examples(name)
    return GenerationSet(
        items=[_item(example, spec, encoder) for example in examples],
        prompts=[encoder.encode_prompt(example) for example in examples],
        task=spec.task,
        max_new_tokens=spec.max_new_tokens,
        decoding=spec.decoding,
        by=spec.by,
        perfect=[encoder.answer_text(example) for example in examples],
        stop_token_ids=[encoder.end_token],
    )


def _item(example: Example, spec: GenerationData, encoder: Encoder) -> Item:
    # To the letter, the answer counts as the layout has it.
    as_laid_out = isinstance(spec.task, ExactTask | NormalisedTask)
    return Item(
        prompt=encoder.prompt_text(example),
        reference=encoder.answer_text(example) if as_laid_out else example.completion,
        fields=example.task_fields,
        labels={label: example.labels[label] for label in spec.by if label in example.labels},
    )


def answered(sets: Mapping[str, EvaluationSets]) -> Iterator[tuple[str, GenerationSet]]:
    """The sets for which answers are generated, by their name in the study file."""
    for name, part in sets.items():
        if part.generation is not None:
            yield "generation" if name == VALIDATION else name, part.generation


def require_same_graders(session: StudySession) -> None:
    """Refuse a grader of the study's own that has changed since the study was made.

    Raises InputError.
    """
    data = session.record.identity["data"]
    for name, part in session.spec.data.answered_sets().items():
        if not isinstance(part.task, PythonTask):
            continue
        # A test set takes the generation set's task over where it names none.
        known = data[name].get("task") or data["generation"]["task"]
        if fingerprint(part.task.path) != known["path"]:
            raise InputError(
                f"data.{name}.task.path: given {part.task.path}, which is not the grader that the "
                "study was made with; allowed: the same file here, or a study of another name"
            )


def require_gradable(pool: GradingPool, items: GenerationSet, name: str) -> None:
    """Refuse a set whose own answers, as the layout has them, would be graded wrong.

    A study would otherwise be decided by a grader that rejects what is right.
    Raises InputError.
    """
    number = len(items.items) if isinstance(items.task, PLAIN) else ITEMS_CHECKED
    answers = items.perfect[:number]
    # The whole set is made known, so that the graders are ready for it.
    with pool.begin(items.task, items.items) as grading:
        for index, answer in enumerate(answers):
            grading.submit(index, 0, answer)
        grades = [first for first, *_ in grading.grades()[: len(answers)]]
    wrong = [index for index, grade in enumerate(grades) if grade.score < 1]
    if not wrong:
        return
    first = wrong[0]
    told = (
        f"{name}.task: given {items.task.type!r}, by which the item's own answer "
        f"{shorten(answers[first], 80)!r} is {grades[first].category.replace('_', ' ')} against "
        f"{shorten(items.items[first].reference, 80)!r}{_because(grades[first])}"
    )
    failed = sum(grade.category == NOT_GRADABLE for grade in grades)
    if isinstance(items.task, SURE) or len(wrong) == len(grades) or 2 * failed > len(grades):
        raise InputError(
            f"{told}; allowed: a task that goes with data.template and the completions"
        )
    logger.warning("%s (so are %d of the %d that were tried)", told, len(wrong), len(grades))


def _because(grade: Grade) -> str:
    """What a grader says of an answer, as of one that it failed on."""
    return f" ({shorten(grade.detail, 200)})" if grade.detail else ""
