"""What came out, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.generation.plan import Rows
from workers.generation.records import GENERATED, HUMAN

SHOWN = 20


def first_lines(lines: Sequence[str], file: str) -> Iterator[str]:
    """As many lines as a person reads; `file` has all of them."""
    yield from lines[:SHOWN]
    if len(lines) > SHOWN:
        yield f"{len(lines) - SHOWN:,} more, see {file}"


@dataclass
class Counts:
    """Responses and refusals of a folder, over all of its runs."""

    levels: Sequence[str]
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Responses by level and source."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Refused responses and prompts by reason."""

    def keep(self, level: str, source: str) -> None:
        """Count a response that was written."""
        self.kept[level, source] += 1

    def of_source(self, source: str) -> int:
        """Responses of one source."""
        return sum(count for (_, name), count in self.kept.items() if name == source)

    def of_level(self, level: str) -> int:
        """Responses of one level."""
        return self.kept[level, HUMAN] + self.kept[level, GENERATED]

    @property
    def total(self) -> int:
        """All responses."""
        return self.kept.total()


def report_of(counts: Counts, given_up: Counter[str], rows: Rows) -> dict[str, Any]:
    """The report as a tree of plain values; shares are of all responses.

    `given_up` are prompts without a response after their last attempt, by level.
    """
    return {
        "responses": counts.total,
        "sources": {
            HUMAN: _share(counts.of_source(HUMAN), counts.total),
            GENERATED: _share(counts.of_source(GENERATED), counts.total),
        },
        "levels": {
            level: {
                HUMAN: counts.kept[level, HUMAN],
                GENERATED: counts.kept[level, GENERATED],
                **_share(counts.of_level(level), counts.total),
                "given_up": given_up[level],
            }
            for level in counts.levels
        },
        "refused": dict(counts.refusals.most_common()),
        "given_up": given_up.total(),
        "rows": rows.as_dict(),
    }


def _share(count: int, total: int) -> dict[str, float]:
    return {"count": count, "percent": round(100 * count / total, 1) if total else 0.0}


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for a person."""
    rows, sources = report["rows"], report["sources"]
    yield (
        f"{_number(rows['rows'])} rows read: {_number(rows['prompts'])} prompts, "
        f"{_number(rows['human'])} with human responses, {_number(rows['same_prompt'])} with the "
        f"prompt of another, {_number(rows['beyond_samples'])} beyond samples, "
        f"{_number(rows['unusable'])} not usable"
    )
    yield f"{_number(report['responses'])} responses"
    for name, what in (
        (HUMAN, "the data's own, kept apart"),
        (GENERATED, "written by the model"),
    ):
        yield f"  {name:<10}{_number(sources[name]['count']):>9}  {_percent(sources[name])}  {what}"
    yield from _table(report["levels"])
    refused = report["refused"]
    yield f"{_number(sum(refused.values()))} refused" + (":" if refused else "")
    for reason, count in refused.items():
        yield f"  {reason:<24}{_number(count):>9}"
    yield f"{_number(report['given_up'])} prompts given up, without a response"


def _table(levels: Mapping[str, Any]) -> Iterator[str]:
    width = max(8, *(len(level) for level in levels)) + 2
    yield f"  {'level':<{width}}{'human':>9}{'generated':>11}{'all':>9}{'share':>9}{'given up':>10}"
    for level, row in levels.items():
        yield (
            f"  {level:<{width}}{_number(row[HUMAN]):>9}{_number(row[GENERATED]):>11}"
            f"{_number(row['count']):>9}{_percent(row):>9}{_number(row['given_up']):>10}"
        )


def _number(count: int) -> str:
    return f"{count:,}"


def _percent(share: Mapping[str, float]) -> str:
    return f"{share['percent']:5.1f} %"
