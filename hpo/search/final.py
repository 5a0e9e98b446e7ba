"""The test set: the base model and the winner are scored on it, each once."""

from __future__ import annotations

from dataclasses import dataclass

from hpo.search.study import StudySearch
from storage.queue import EvaluationQueue
from storage.records import EvaluationRecord

PENDING = ("open", "claimed")


@dataclass(frozen=True)
class FinalTest:
    """What a study with a test set still has to do when its trials are over."""

    queue: EvaluationQueue
    search: StudySearch

    def ask(self) -> None:
        """Ask for the scores, where there is a test set and nobody asked before.

        Only when all trials are over: the winner must be known.
        """
        if self.search.spec.data.test is None:
            return
        self.queue.put_base_test()
        record = self._winner()
        if record is not None and record.checkpoint is not None:
            self.queue.put_trial_test(record)

    def pending(self) -> bool:
        """Whether a score is still to come: the base model's own, or one on the test set."""
        base = self.queue.base()
        if base is not None and base.state in PENDING:
            return True
        if self.search.spec.data.test is None:
            return False
        found = [self.queue.base_test()]
        winner = self._winner()
        if winner is not None and winner.checkpoint is not None:
            found.append(self._of(winner))
        return any(record is None or record.state in PENDING for record in found)

    def base(self) -> EvaluationRecord | None:
        """The base model's score."""
        return self.queue.base_test()

    def winner(self) -> EvaluationRecord | None:
        """The score of the best trial's best checkpoint."""
        record = self._winner()
        return self._of(record) if record is not None else None

    def _of(self, record: EvaluationRecord) -> EvaluationRecord | None:
        assert record.number is not None
        return self.queue.trial_test(record.number, record.step)

    def _winner(self) -> EvaluationRecord | None:
        """The evaluation that made the best trial the best; a person's has none."""
        best = self.search.best_trial()
        if best is None:
            return None
        step = best.user_attrs.get("best_step")
        records = self.queue.for_trial(best.number)
        return next((record for record in records if record.step == step), None)
