"""What has been decided so far, in this run and in those before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo.spec.errors import OutputError
from hpo.spec.generate import GenerateSpec
from workers.generation.checks import Candidate, Refusal, ResponseChecks
from workers.generation.folder import Written
from workers.generation.prompts import Prompt
from workers.generation.records import GENERATED, HUMAN, attempt_of, response_of
from workers.generation.report import Counts


class Ledger:
    """Which prompts are answered, which are to be tried again, which are given up."""

    def __init__(self, spec: GenerateSpec, prompts: Sequence[Prompt]) -> None:
        self.counts = Counts(tuple(spec.levels))
        self._spec = spec
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._checks = ResponseChecks(spec.checks)
        self._answered: set[str] = set()
        self._unanswerable: set[str] = set()
        self._refusals: Counter[str] = Counter()

    def take_up(self, written: Written) -> None:
        """Remember what the folder holds.

        Raises OutputError for a record whose prompt is not in the plan.
        """
        for record in written.refused:
            self.refuse(self._prompt(record).id, record["reason"], attempt_of(record))
        for record in written.accepted:
            prompt = self._prompt(record)
            finish_reason = record["provenance"]["finish_reason"]
            self.accept(prompt, candidate(prompt, response_of(record), finish_reason))

    def refusal(self, given: Candidate) -> Refusal | None:
        """Why a response cannot be accepted now; None where it can."""
        return self._checks.refusal(given)

    def accept(self, prompt: Prompt, given: Candidate) -> None:
        """Record that a prompt is answered."""
        self._answered.add(prompt.id)
        self._checks.accept(given)
        self.counts.keep(prompt.level, GENERATED)

    def refuse(self, prompt: str, reason: str, attempt: int | None) -> None:
        """Record a refusal; without an attempt the prompt cannot be answered at all."""
        self.counts.refusals[reason] += 1
        if attempt is None:
            self._unanswerable.add(prompt)
        else:
            self._refusals[prompt] += 1

    def keep_human(self, level: str) -> None:
        """Count a response of the data's own."""
        self.counts.keep(level, HUMAN)

    def waiting(self, attempt: int | None = None) -> Iterator[Prompt]:
        """Prompts that are to be tried, in the plan's order; those with this attempt next."""
        for identity, prompt in self._prompts.items():
            following = self._next_attempt(identity, prompt.level)
            if following is not None and attempt in (None, following):
                yield prompt

    def given_up(self) -> Counter[str]:
        """Prompts that stay without a response, by level."""
        return Counter(
            prompt.level
            for identity, prompt in self._prompts.items()
            if identity not in self._answered and self._next_attempt(identity, prompt.level) is None
        )

    def _next_attempt(self, identity: str, level: str) -> int | None:
        if identity in self._answered or identity in self._unanswerable:
            return None
        following = self._refusals[identity] + 1
        return following if following <= self._spec.attempts_at(level) else None

    def _prompt(self, record: Mapping[str, Any]) -> Prompt:
        prompt = self._prompts.get(record["id"])
        if prompt is None:
            raise OutputError(
                f"{self._spec.output}: given the response {record['id']}, whose prompt is not in "
                "the sources; allowed: the files as they were written, or another output folder"
            )
        return prompt


def candidate(prompt: Prompt, text: str, finish_reason: str) -> Candidate:
    """A response as the checks see it."""
    return Candidate(text, prompt.text, prompt.level, finish_reason, prompt.origin)
