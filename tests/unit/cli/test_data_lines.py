from __future__ import annotations

from typing import Any

from hpo.results.data import count_lines, data_lines, data_markdown, histogram_lines, set_line

TOKENS = {
    "total": 900,
    "learned": 300,
    "quantiles": [4, 5, 9, 12, 18, 40],
    "histogram": [[20, 60], [40, 1], [60, 0]],
    "truncation": [{"max_length": 16, "truncated": 5, "dropped": 1}],
}
PART: dict[str, Any] = {
    "name": "train",
    "rows": 120,
    "wanted": 100,
    "examples": 100,
    "kept": 61,
    "repeated": 90,
    "dropped": {"near_duplicates": 30, "held out for loss": 9},
    "reported": {"contaminated": 2, "evaluation items": 9, "not compared": 4},
    "shown": {"near_duplicates": [{"where": "a:9", "detail": "almost equal to a:2", "text": "x"}]},
    "counts": {"level": {f"L{n}": 4 for n in range(15)}},
    "quality": [0.25, 0.5, 1.0],
    "tokens": TOKENS,
}


def test_a_set_adds_up_in_one_line() -> None:
    assert set_line(PART) == (
        "data.train: 100 in = 61 kept + 39 dropped (30 near duplicates, 9 held out for loss); "
        "90 per epoch by weight"
    )


def test_everything_that_is_known_is_told() -> None:
    lines = list(data_lines({"hash": "sha256:1", "sets": [PART]}))
    assert lines[1:] == [
        "  100 of 120 rows wanted",
        "  2 contaminated, kept all the same",
        "  4 of 9 evaluation items are too short or too common to be looked for",
        "  near duplicates, for example a:9: almost equal to a:2",
        "  quality from 0.25 to 1.00, 0.50 on average",
        "  900 tokens, 300 of them learned; per example 4 to 40, 9 in the median, 95 % at most 18",
        "  at 16 tokens: 5 cut, 1 left out (9.8%)",
        "data hash sha256:1",
    ]


def test_labels_with_many_values_are_cut_short() -> None:
    (line,) = count_lines(PART)
    assert line.startswith("  by level: L0 4 (6.6%), L1 4 (6.6%)")
    assert line.endswith("L11 4 (6.6%) and 3 more")


def test_lengths_are_drawn() -> None:
    assert list(histogram_lines(PART)) == [
        f"   1-20 tokens {'█' * 40} 60",
        f"  21-40 tokens {'█'} 1",
        "  41-60 tokens  0",
    ]
    assert list(histogram_lines({**PART, "tokens": None})) == []


def test_the_note_is_a_table() -> None:
    note = data_markdown({"hash": "sha256:1", "sets": [PART]})
    assert "| train | 100 | 61 | 30 near duplicates, 9 held out for loss | 900 |" in note
    assert "- train, near duplicates: `a:9` almost equal to a:2" in note
