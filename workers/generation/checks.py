"""Which responses are accepted. These checks are ours, of no publication."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hpo.spec.checks import Checks, Copy, Opening, Repetition, Skeleton
from workers.generation.similar import SimilarTexts
from workers.generation.wording import (
    most_repeated,
    plain,
    sequences,
    skeleton,
    stable_hash,
    words,
)

LENGTH = "length"
"""vLLM's reason for a response that was cut at its limit."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response that is to be accepted or refused."""

    text: str
    prompt: str
    """Every turn of the prompt."""
    level: str
    finish_reason: str
    origin: str
    """Where its prompt was read, for messages."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a response is not accepted."""

    reason: str
    detail: str


class ResponseChecks:
    """The checks, and what they remember of the responses accepted so far.

    The verdict depends on the candidate and on what was accepted before it,
    in any process alike: `accept` the same responses in the same order and
    the same verdicts follow.
    """

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._phrases = [(phrase, _phrase(phrase)) for phrase in checks.phrases]
        self._texts: dict[int, str] = {}
        self._accepted: Counter[str] = Counter()
        self._openings: Counter[tuple[str, int]] = Counter()
        self._skeletons: Counter[tuple[str, int]] = Counter()
        self._origins: list[str] = []
        near = checks.repeated
        wanted = near is not None and near.similarity < 1
        self._similar = SimilarTexts(near.words, near.similarity) if near and wanted else None

    def refusal(self, candidate: Candidate) -> Refusal | None:
        """The first check that fails; None for a response that may be accepted."""
        return next(self._failures(candidate), None)

    def accept(self, candidate: Candidate) -> None:
        """Remember an accepted response."""
        level, checks = candidate.level, self._checks
        self._accepted[level] += 1
        if checks.opening is not None:
            self._openings[level, _opening(candidate.text, checks.opening)] += 1
        if checks.skeleton is not None:
            self._skeletons[level, stable_hash(skeleton(candidate.text))] += 1
        if checks.repeated is not None:
            self._texts.setdefault(stable_hash(plain(candidate.text)), candidate.origin)
        if self._similar is not None:
            self._similar.add(words(candidate.text))
            self._origins.append(candidate.origin)

    def _failures(self, candidate: Candidate) -> Iterator[Refusal]:
        """In the order of the specification's fields, each looked for when it is asked for."""
        yield from self._too_little(candidate)
        yield from self._phrase(candidate)
        if self._checks.repetition is not None:
            yield from _repetition(candidate.text, self._checks.repetition)
        if self._checks.copy_of_prompt is not None:
            yield from _copy(candidate, self._checks.copy_of_prompt)
        yield from self._repeated(candidate)
        yield from self._template_like(candidate)

    def _too_little(self, candidate: Candidate) -> Iterator[Refusal]:
        length = len(candidate.text)
        if length == 0:
            yield Refusal("empty", "nothing but white space")
        if length < self._checks.min_characters:
            yield Refusal("too short", f"{length} characters")
        if candidate.finish_reason == LENGTH and not self._checks.allow_truncated:
            yield Refusal("truncated", "cut at max_new_tokens")

    def _phrase(self, candidate: Candidate) -> Iterator[Refusal]:
        for phrase, pattern in self._phrases:
            if pattern.search(candidate.text):
                yield Refusal("phrase", repr(phrase))

    def _repeated(self, candidate: Candidate) -> Iterator[Refusal]:
        if self._checks.repeated is None:
            return
        if (origin := self._texts.get(stable_hash(plain(candidate.text)))) is not None:
            yield Refusal("repeated", f"equal to the response to {origin}")
        if self._similar is None:
            return
        if (found := self._similar.find(words(candidate.text))) is not None:
            number, similarity = found
            detail = f"{similarity:.2f} similar to the response to {self._origins[number]}"
            yield Refusal("almost repeated", detail)

    def _template_like(self, candidate: Candidate) -> Iterator[Refusal]:
        level, checks = candidate.level, self._checks
        if checks.opening is not None:
            shared = self._openings[level, _opening(candidate.text, checks.opening)]
            if shared >= self._allowed(level, checks.opening):
                yield Refusal("template-like opening", f"{shared} others at {level} have it")
        if checks.skeleton is not None:
            shared = self._skeletons[level, stable_hash(skeleton(candidate.text))]
            if shared >= self._allowed(level, checks.skeleton):
                yield Refusal("template-like skeleton", f"{shared} others at {level} have it")

    def _allowed(self, level: str, check: Opening | Skeleton) -> float:
        return max(check.number, check.share * self._accepted[level])


def _phrase(phrase: str) -> re.Pattern[str]:
    """A phrase with any white space between its words, not inside longer words."""
    inner = r"\s+".join(map(re.escape, phrase.split()))
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)


def _opening(text: str, opening: Opening) -> int:
    return stable_hash(" ".join(words(text)[: opening.words]) or plain(text))


def _repetition(text: str, limits: Repetition) -> Iterator[Refusal]:
    lines = Counter(line for line in map(plain, text.splitlines()) if line)
    line, times = lines.most_common(1)[0] if lines else ("", 0)
    if times >= limits.lines:
        yield Refusal("repetition", f"the line {_shown(line)} {times} times")
    sequence, times = most_repeated(words(text), limits.words)
    if times >= limits.times:
        yield Refusal("repetition", f"the words {_shown(sequence)} {times} times")
    # Underscores and other marks are left out: a blank to fill in is a run of them.
    run = re.search(rf"([^\W_]{{1,10}}?)\1{{{limits.run - 1},}}", text)
    if run is not None:
        yield Refusal("repetition", f"{run[1]!r} {len(run[0]) // len(run[1])} times in a row")


def _copy(candidate: Candidate, limits: Copy) -> Iterator[Refusal]:
    given = set(sequences(words(candidate.prompt), limits.words))
    own = list(sequences(words(candidate.text), limits.words))
    if not own:
        return
    share = sum(sequence in given for sequence in own) / len(own)
    if share >= limits.share:
        yield Refusal("copy of the prompt", f"{share:.0%} of its words' sequences stand there")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
