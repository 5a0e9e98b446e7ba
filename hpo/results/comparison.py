"""Two evaluations side by side: before and after on the same items.

Works on the stored results alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hpo.results.pairs import Pair, Result, natural, pair_of
from hpo.search.graded import in_order
from hpo.spec.errors import StudyError
from hpo.statistics.paired import McNemar, PairedDifference, mcnemar, paired_bootstrap
from storage.records import EvaluationRecord

Difference = dict[str, Any] | None
CONFIDENCE = 0.95
RIGHT = 1.0


@dataclass(frozen=True)
class Side:
    """An evaluation that was answered, and whose it is."""

    name: str
    """In words."""
    number: int | None
    """The trial's number; None for the base model."""
    record: EvaluationRecord


@dataclass(frozen=True)
class Change:
    """An item whose score is another one now."""

    item: int
    before: float
    """From 0 to 1; 1 is right."""
    after: float


@dataclass(frozen=True)
class Accuracy:
    """How the answers to the same items changed."""

    items: int
    share: Pair
    difference: PairedDifference
    test: McNemar | None
    """None where items are more than right or wrong."""
    improved: tuple[Change, ...]
    """The largest change first."""
    worsened: tuple[Change, ...]


@dataclass(frozen=True)
class Comparison:
    """What became of the scores between two evaluations."""

    before: Side
    after: Side
    accuracy: Accuracy | None
    """None where the study has no generation set."""

    def scores(self) -> dict[str, Pair]:
        """Loss, perplexity and what the task measures, by name."""
        before, after = _result(self.before), _result(self.after)
        pairs = {name: pair_of(before, after, name) for name in ("loss", "perplexity")}
        first, second = before.get("measures") or {}, after.get("measures") or {}
        names = sorted(first | second, key=natural)
        return pairs | {name: pair_of(first, second, name) for name in names}

    def counts(self) -> dict[str, Pair]:
        """Answers by category; none where a result of an earlier version does not say."""
        first, second = (_result(side).get("categories") or {} for side in self._sides)
        names = in_order(first | second) if first and second else []
        return {name: Pair(first.get(name, 0), second.get(name, 0)) for name in names}

    def truncated(self) -> Pair:
        """Answers that reached the limit of tokens."""
        return pair_of(_result(self.before), _result(self.after), "truncated")

    def breakdown(self) -> dict[str, dict[str, Pair]]:
        """Accuracies by field and value."""
        first, second = (_result(side).get("by") or {} for side in self._sides)
        return {
            name: {
                value: pair_of(first[name].get(value, {}), second[name].get(value, {}), "accuracy")
                for value in sorted(first[name] | second[name], key=natural)
            }
            for name in sorted(first.keys() & second.keys())
        }

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.before, self.after

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "before": _side(self.before),
            "after": _side(self.after),
            "accuracy": accuracy_dict(self.accuracy) if self.accuracy else None,
            "scores": {name: pair.as_dict() for name, pair in self.scores().items()},
            "categories": {name: pair.as_dict() for name, pair in self.counts().items()},
            "truncated": self.truncated().as_dict(),
            "by": {
                name: {value: pair.as_dict() for value, pair in values.items()}
                for name, values in self.breakdown().items()
            },
        }


def compare(before: Side, after: Side) -> Comparison:
    """Both evaluations on the items that they share.

    Raises StudyError when they were not given the same items in the same way,
    or when only one of them has graded answers.
    """
    first, second = outcomes(before), outcomes(after)
    for side, found, other in ((before, first, after), (after, second, before)):
        if not found and (first or second):
            raise StudyError(
                f"{side.name} has no graded answers to compare with those of {other.name}"
            )
    if not first:
        return Comparison(before, after, None)
    _require_same(before, after)
    return Comparison(before, after, _accuracy(first, second))


def against_base(base: EvaluationRecord | None, best: EvaluationRecord | None) -> Difference:
    """How much better the best trial's evaluation is than the base model's.

    None where one of them is missing; without the accuracy where the items are
    not the same.
    """
    if base is None or base.result is None or best is None or best.result is None:
        return None
    sides = Side("base model", None, base), Side("best trial", best.number, best)
    difference: dict[str, Any] = {"loss": pair_of(base.result, best.result, "loss").as_dict()}
    try:
        accuracy = compare(*sides).accuracy
    except StudyError:
        return difference
    return difference | ({"accuracy": accuracy_dict(accuracy)} if accuracy is not None else {})


def outcomes(side: Side) -> list[float]:
    """Mean score of each item's answers, in the order of the set."""
    return [float(score) for score in _result(side).get("outcomes") or ()]


def accuracy_dict(accuracy: Accuracy) -> dict[str, Any]:
    """Plain values for JSON and YAML, without the items."""
    difference, test = accuracy.difference, accuracy.test
    content: dict[str, Any] = {
        "before": accuracy.share.before,
        "after": accuracy.share.after,
        "difference": difference.difference,
        "low": difference.low,
        "high": difference.high,
        "confidence": CONFIDENCE,
        "method": "paired bootstrap",
        "relative": accuracy.share.relative,
        "items": accuracy.items,
        "improved": len(accuracy.improved),
        "worsened": len(accuracy.worsened),
    }
    return content | ({"mcnemar_p": test.p_value} if test is not None else {})


def _accuracy(before: Sequence[float], after: Sequence[float]) -> Accuracy:
    changes = [Change(i, b, a) for i, (b, a) in enumerate(zip(before, after, strict=True))]
    by_size = sorted(changes, key=lambda change: -abs(change.after - change.before))
    return Accuracy(
        items=len(changes),
        share=Pair(fmean(before), fmean(after)),
        difference=paired_bootstrap(before, after),
        test=_mcnemar(before, after),
        improved=tuple(change for change in by_size if change.after > change.before),
        worsened=tuple(change for change in by_size if change.after < change.before),
    )


def _mcnemar(before: Sequence[float], after: Sequence[float]) -> McNemar | None:
    if not {*before, *after} <= {0.0, RIGHT}:
        return None
    return mcnemar([score == RIGHT for score in before], [score == RIGHT for score in after])


def _require_same(before: Side, after: Side) -> None:
    """Both must have been asked the same, in the same way. Raises StudyError."""
    difference = next(_differences(_result(before), _result(after)), None)
    if difference is not None:
        raise StudyError(
            f"{before.name} and {after.name} cannot be compared: {difference}; allowed: "
            "evaluations of the same items, decoded alike"
        )


def _differences(before: Result, after: Result) -> Iterator[str]:
    asked = len(before["outcomes"]), len(after["outcomes"])
    if asked[0] != asked[1]:
        yield f"they were given {asked[0]} and {asked[1]} items"
    # Results of an earlier version do not say: a study's items are frozen all the same.
    for name, what in (("items_hash", "given sets of items"), ("decoding", "decoded")):
        first, second = before.get(name), after.get(name)
        if first is not None and second is not None and first != second:
            yield f"they were {what} with {_named(first, second)} and {_named(second, first)}"


def _named(value: Any, other: Any) -> str:
    """A value in words; of several, those that the other one has not."""
    if not (isinstance(value, Mapping) and isinstance(other, Mapping)):
        return str(value)
    named = (f"{name} {part}" for name, part in value.items() if other.get(name) != part)
    return ", ".join(named) or "nothing more"


def _side(side: Side) -> dict[str, Any]:
    record, result = side.record, _result(side)
    shown = ("loss", "perplexity", "accuracy", "accuracy_low", "accuracy_high", "total")
    place = {"trial": side.number, "step": record.step, "examples": record.examples}
    return place | {"test": record.test} | {name: result.get(name) for name in shown}


def _result(side: Side) -> Result:
    return side.record.result or {}
