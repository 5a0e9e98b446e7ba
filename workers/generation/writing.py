"""The loop that generates, checks and records, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpo.spec.errors import InputError
from hpo.spec.generate import GenerateSpec
from workers.data.example import UnusableRow
from workers.data.tokens.tokenizer import load_tokenizer
from workers.generation.chat import PromptEncoder
from workers.generation.checks import Refusal
from workers.generation.engine import VERSION, Request, Response, WritingEngine
from workers.generation.folder import REFUSED, OutputFolder
from workers.generation.ledger import Ledger, candidate
from workers.generation.model import LocalModel, context_length
from workers.generation.prompts import Prompt
from workers.generation.records import GENERATED, Attempt, Record, Recorder
from workers.generation.report import first_lines


@dataclass
class Writing:
    """Writes a response for every prompt of a ledger that waits for one.

    Attempts are decided in one order, whatever was interrupted: every
    prompt's first attempt in the order of the plan, then the second ones of
    those that were refused, and so on. A response depends on its prompt and
    its seed, a verdict on what was accepted before it.
    """

    spec: GenerateSpec
    model: LocalModel
    folder: OutputFolder
    ledger: Ledger
    note: Callable[[str], None]
    encoder: PromptEncoder
    recorder: Recorder

    @classmethod
    def of(
        cls,
        spec: GenerateSpec,
        model: LocalModel,
        folder: OutputFolder,
        ledger: Ledger,
        note: Callable[[str], None],
    ) -> Writing:
        """Load the tokenizer. Raises InputError."""
        tokenizer = load_tokenizer(str(model.folder))
        encoder = PromptEncoder(tokenizer, spec.template, spec.separator)
        recorder = Recorder(spec, model, VERSION, encoder.template)
        return cls(spec, model, folder, ledger, note, encoder, recorder)

    def run(self, device: str) -> None:
        """Load the model and write until no prompt waits any more.

        Raises InputError for a model that cannot be served and, where the
        policy is to stop, for a prompt that the chat template refuses.
        """
        longest = self._refuse_unanswerable()
        if longest is None:
            return
        self.note(f"loading {self.model.name} on {device}")
        engine = WritingEngine(
            self.model,
            self.spec.model.dtype,
            self.spec.engine,
            device=device.partition(":")[0],
            max_model_len=longest,
            stop_tokens=self.encoder.stop_tokens(),
        )
        try:
            for number in range(1, self.spec.attempts + 1):
                self._attempt(engine, number)
        finally:
            engine.close()

    def _refuse_unanswerable(self) -> int | None:
        """Record prompts that nothing can be generated for.

        Returns the tokens that the longest of the others takes with its
        response; None when there is none.
        """
        limits = (context_length(self.model), self.spec.engine.max_model_len)
        room = min((limit for limit in limits if limit is not None), default=None)
        needed: list[int] = []
        records: list[Record] = []
        told: list[str] = []
        for prompt in list(self.ledger.waiting()):
            why, tokens = self._looked_at(prompt, room)
            if why is None:
                needed.append(tokens)
            else:
                records.append(self.recorder.unanswerable(prompt, why))
                self.ledger.refuse(prompt.id, why.reason, None)
                told.append(f"{prompt.origin}: {why.reason} ({why.detail})")
        self.folder.refused.append(records)
        for line in first_lines(told, REFUSED):
            self.note(f"refused: {line}")
        return max(needed, default=None)

    def _looked_at(self, prompt: Prompt, room: int | None) -> tuple[Refusal | None, int]:
        """Why nothing can be generated for a prompt; the tokens that it takes with its response."""
        most = self.spec.levels[prompt.level].max_new_tokens
        try:
            length = len(self.encoder.encode(prompt))
        except UnusableRow as error:
            if self.spec.on_error == "stop":
                raise InputError(str(error)) from error
            return Refusal("prompt not in the chat template", error.problem.given), 0
        if room is not None and length + most > room:
            detail = f"{length} tokens and {most} for the response, there is room for {room}"
            return Refusal("prompt too long", detail), 0
        return None, length + most

    def _attempt(self, engine: WritingEngine, number: int) -> None:
        """Try every prompt whose next attempt this is."""
        waiting = list(self.ledger.waiting(number))
        started, size = time.monotonic(), self.spec.engine.batch
        for start in range(0, len(waiting), size):
            batch = [self._try(prompt, number) for prompt in waiting[start : start + size]]
            self._record(batch, engine.write([self._request(attempt) for attempt in batch]))
            done = start + len(batch)
            rate = done / (time.monotonic() - started)
            self.note(self._progress(number, done, len(waiting), rate))

    def _try(self, prompt: Prompt, number: int) -> Attempt:
        return Attempt(prompt, number, prompt.seed(self.spec.seed, number))

    def _request(self, attempt: Attempt) -> Request:
        level = self.spec.levels[attempt.prompt.level]
        return Request(self.encoder.encode(attempt.prompt), level, attempt.seed)

    def _record(self, batch: Sequence[Attempt], responses: Sequence[Response]) -> None:
        accepted: list[Record] = []
        refused: list[Record] = []
        for attempt, response in zip(batch, responses, strict=True):
            prompt, text, ended = attempt.prompt, response.text, response.finish_reason
            given = candidate(prompt, text, ended)
            why = self.ledger.refusal(given)
            if why is None:
                self.ledger.accept(prompt, given)
                accepted.append(self.recorder.accepted(attempt, text, ended))
            else:
                self.ledger.refuse(prompt.id, why.reason, attempt.number)
                refused.append(self.recorder.refused(attempt, text, ended, why))
        # In this order: what a crash between the two leaves are responses that
        # are decided again after exactly those that were accepted before them.
        self.folder.refused.append(refused)
        self.folder.responses.append(accepted)

    def _progress(self, number: int, done: int, total: int, rate: float) -> str:
        kept = self.ledger.counts.kept
        levels = ", ".join(f"{level} {kept[level, GENERATED]}" for level in self.spec.levels)
        return (
            f"attempt {number}: {done} of {total}, accepted so far: {levels}, "
            f"refused: {self.ledger.counts.refusals.total()}, {rate:.1f} responses/s"
        )
