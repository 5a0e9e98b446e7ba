"""What is tried next, what is given up, and how it is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from generate_text import spec_of

from hpo.spec.errors import OutputError
from workers.data.example import Turn
from workers.generation.folder import Written
from workers.generation.ledger import Ledger, candidate
from workers.generation.plan import Rows
from workers.generation.prompts import Prompt
from workers.generation.report import Counts, report_lines, report_of

PROMPTS = [
    Prompt((Turn("user", f"Question {n}?"),), None, "A1" if n < 3 else "C2", f"p:{n}", "p")
    for n in range(5)
]


def line(prompt: Prompt, attempt: int | None, **more: Any) -> dict[str, Any]:
    provenance = {"finish_reason": "stop"} | ({} if attempt is None else {"attempt": attempt})
    return {"id": prompt.id, "reason": "empty", "provenance": provenance, **more}


def ledger(folder: Path, written: Written) -> Ledger:
    kept = Ledger(spec_of(folder, ("C2: {max_new_tokens: 40}", "C2: {temperature: 0}")), PROMPTS)
    kept.take_up(written)
    return kept


def test_attempts_go_on_where_they_were(tmp_path: Path) -> None:
    written = Written(
        accepted=[line(PROMPTS[0], 2, completion="A fine answer.")],
        refused=[
            line(PROMPTS[0], 1),
            line(PROMPTS[1], 1),
            line(PROMPTS[2], None),
            line(PROMPTS[3], 1),
        ],
    )
    kept = ledger(tmp_path, written)
    assert [prompt.origin for prompt in kept.waiting()] == ["p:1", "p:4"]
    assert [prompt.origin for prompt in kept.waiting(1)] == ["p:4"]
    assert [prompt.origin for prompt in kept.waiting(2)] == ["p:1"]
    assert kept.given_up() == Counter({"A1": 1, "C2": 1})
    repeated = kept.refusal(candidate(PROMPTS[1], "A fine answer.", "stop"))
    assert repeated is not None
    assert repeated.detail == "equal to the response to p:0"
    for attempt in (2, 3):
        kept.refuse(PROMPTS[1].id, "empty", attempt)
    kept.accept(PROMPTS[4], candidate(PROMPTS[4], "Another answer.", "stop"))
    assert not list(kept.waiting())
    assert kept.given_up() == Counter({"A1": 2, "C2": 1})


def test_a_response_to_an_unknown_prompt_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the response x, whose prompt is not in the sources"):
        ledger(tmp_path, Written(refused=[{"id": "x"}]))


def test_a_report_adds_up() -> None:
    counts = Counts(("A1", "C2"))
    for level, source, times in (
        ("A1", "human", 1),
        ("A1", "generated", 5),
        ("C2", "generated", 2),
    ):
        for _ in range(times):
            counts.keep(level, source)
    counts.refusals.update({"empty": 3, "template-like opening": 1})
    rows = Rows(rows=10, prompts=8, human=1, human_responses=1, dropped=["p:9: bad"])
    report = report_of(counts, Counter({"A1": 1}), rows)
    assert report["responses"] == 8
    assert report["sources"]["human"] == {"count": 1, "percent": 12.5}
    assert report["sources"]["generated"] == {"count": 7, "percent": 87.5}
    assert report["levels"]["A1"] == {
        "human": 1,
        "generated": 5,
        "count": 6,
        "percent": 75.0,
        "given_up": 1,
    }
    assert report["given_up"] + report["sources"]["generated"]["count"] == rows.prompts
    assert report["rows"]["unusable"] == 1
    assert sum(level["count"] for level in report["levels"].values()) == report["responses"]


def test_a_report_is_a_table() -> None:
    counts = Counts(("A1",))
    assert "  A1" in "\n".join(report_lines(report_of(counts, Counter(), Rows())))
    counts.keep("A1", "generated")
    counts.refusals["repeated"] = 1234
    lines = list(report_lines(report_of(counts, Counter(), Rows(rows=2000))))
    assert lines[0].startswith("2,000 rows read: 0 prompts")
    assert "  generated         1  100.0 %  written by the model" in lines
    assert "  repeated                    1,234" in lines
