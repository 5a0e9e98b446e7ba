"""Free text, measured against the reference by sacrebleu.

chrF is chrF2 (Popovic 2015), with sacrebleu's signature
`nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0`; BLEU (Papineni
et al. 2002) has `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`
over a set, and `eff:yes` for one answer (Post 2018, arXiv:1804.08771).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from hpo.spec.errors import InputError
from hpo.spec.tasks import TextTask
from workers.evaluation.tasks.task import Grade, Graded, Item
from workers.evaluation.tasks.wording import shown

SCORED, EMPTY = "scored", "empty"


class TextGrader:
    """The score of an answer is its measure from 0 to 1; an empty one has 0."""

    categories: Sequence[str] = (SCORED, EMPTY)
    cheap = False

    def __init__(self, task: TextTask) -> None:
        self._name = task.measure
        self._measure = CHRF() if task.measure == "chrf" else BLEU(effective_order=True, force=True)

    def check(self, item: Item) -> None:
        """Raise InputError for an empty reference."""
        if not item.reference.strip():
            raise InputError("reference '' is empty; allowed for task text: a text")

    def grade(self, item: Item, answer: str) -> Grade:
        """Measure one answer."""
        if not answer.strip():
            return Grade(EMPTY, 0.0, None, "empty")
        score = self._measure.sentence_score(answer, [item.reference]).score
        # Equal texts have 100.00000000000004 in BLEU.
        share = min(1.0, max(0.0, round(score / 100, 9)))
        return Grade(SCORED, share, shown(answer.strip()), f"{self._name} {score:.1f}")

    def measures(self, graded: Sequence[Graded]) -> Mapping[str, float]:
        """`chrf` and `bleu` of all answers together, from 0 to 100; nothing of no answer."""
        answers = [answer for one in graded for answer in one.answers]
        references = [[one.item.reference for one in graded for _ in one.answers]]
        if not answers:
            return {}
        return {
            "chrf": CHRF().corpus_score(answers, references).score,
            "bleu": BLEU(force=True).corpus_score(answers, references).score,
        }
