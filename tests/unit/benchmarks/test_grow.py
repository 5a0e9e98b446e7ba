from __future__ import annotations

import json
from pathlib import Path

from benchmarks.data.grow import grow


def test_grown_rows_are_new_stories_with_some_duplicates(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    row = {"question": "Anna has 5 apples and gives Bert 3. How many?", "answer": "5-3=2\n#### 2"}
    source.write_text(json.dumps(row) + "\n")
    files = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for file in files:
        grow(source, file, 2000)
    assert files[0].read_text() == files[1].read_text()
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert len(rows) == 2000
    texts = [row["question"] + row["answer"] for row in rows]
    assert 20 <= len(texts) - len(set(texts)) <= 80
    assert sum("indeed" in row["answer"] for row in rows) >= 20
    assert len({row["question"] for row in rows}) > 1500
