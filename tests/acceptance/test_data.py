"""`hpo data` and studies on cleaned data, by the real commands."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands_lab import Hpo

REAL = Path(__file__).parents[3] / "shared" / "data"
ROWS = [
    {"question": f"What is {n} and {n + 1}?", "answer": f"{n} and {n + 1} is {2 * n + 1}.", "n": n}
    for n in range(60)
]


@pytest.fixture(scope="module")
def state(inputs: Path) -> Iterator[Path]:
    """A state folder; what one test prepares serves the next."""
    # Not below pytest's folder, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="hpo-home-") as name:
        home = Path(name)
        (home / "quickstart").symlink_to(inputs)
        yield home


@pytest.fixture
def hpo(state: Path, tmp_path: Path) -> Hpo:
    return Hpo(state, tmp_path)


def data_file(hpo: Hpo, content: str, model: bool = True) -> Path:
    """A file with a data section alone."""
    file = hpo.folder / "data.yaml"
    head = f"model: {{path: {hpo.home}/quickstart/model}}\nmax_length: 64\n" if model else ""
    file.write_text(head + "data:\n" + content)
    return file


def rows(hpo: Hpo, name: str = "rows.jsonl") -> Path:
    file = hpo.folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[3], ROWS[4]]))
    return file


CLEANED = """\
  train: {path: rows.jsonl, prompt: question, completion: answer}
  loss: {fraction: 0.1, seed: 42}
  cleaning: {min_characters: 5, near_duplicates: {}}
"""


def test_preparing_reports_what_became_of_the_data(hpo: Hpo) -> None:
    rows(hpo)
    file = data_file(hpo, CLEANED)
    shown = hpo.cold("data", "prepare", file).done()
    assert (
        "data.train: 62 in = 54 kept + 8 dropped (2 exact duplicates, 6 held out for loss)" in shown
    )
    assert "data.loss: 6 in = 6 kept + 0 dropped" in shown
    assert "exact duplicates, for example rows.jsonl:61: equal to rows.jsonl:4" in shown

    report = hpo("data", "prepare", file, "--json").json
    for part in report["sets"]:
        assert part["examples"] == part["kept"] + sum(part["dropped"].values())

    stats = hpo("data", "stats", file).done()
    assert "by file: rows.jsonl 54 (100.0%)" in stats
    assert re.search(r"\d+- *\d+ tokens █+ \d+", stats)


def test_examples_are_shown_as_they_are_trained_on(hpo: Hpo) -> None:
    rows(hpo)
    file = data_file(hpo, CLEANED)
    shown = hpo("data", "inspect", file, "--set", "train", "--count", "2").done()
    # The first row is held out.
    assert "train 0 of 54 · rows.jsonl:2" in shown
    assert "What is 1 and 2?\n1 and 2 is 3.<|endoftext|>" in shown
    # Bytes are tokens: the prompt's are bare, the answer's and the end are in brackets.
    assert re.search(r"31 tokens, 14 learned: 54 71 .* \[256\]", shown), shown
    dropped = hpo("data", "inspect", file, "--dropped").done()
    assert "rows.jsonl:61" in dropped
    coloured = hpo("data", "inspect", file, "--count", "1", FORCE_COLOR="1").done()
    assert "\x1b[32m" in coloured
    assert "allowed: train, loss" in hpo("data", "inspect", file, "--set", "x").refusal()[0]


def test_a_second_start_is_served_from_the_cache(hpo: Hpo) -> None:
    source = rows(hpo)
    file = data_file(hpo, CLEANED, model=False)
    first = hpo("data", "prepare", file).done()
    folder = re.search(r"prepared data: (\S+)", first)
    assert folder is not None
    marker = Path(folder[1]) / "marker"
    marker.touch()
    assert folder[1] in hpo("data", "prepare", file).done()
    assert marker.exists()
    hpo("data", "prepare", file, "--rebuild").done()
    assert not marker.exists()
    with source.open("a") as stream:
        stream.write(json.dumps({"question": "What is new?", "answer": "This is."}) + "\n")
    assert folder[1] not in hpo("data", "prepare", file).done()


BAD_FILES = {
    "malformed.jsonl": (b'{"question": "a", "answer": "b"}\n{"question": "a"', "malformed.jsonl:2"),
    "latin.jsonl": ('{"question": "é", "answer": "b"}\n'.encode("latin-1"), "latin.jsonl:1"),
    "utf16.jsonl": ('{"question": "a", "answer": "b"}\n'.encode("utf-16"), "utf16.jsonl"),
    "missing.csv": (b"question,reply\na,b\n", "missing.csv:2"),
    "empty.csv": (b"question,answer\na,\n", "empty.csv:2"),
    "typed.json": (b'[{"question": "a", "answer": 3}]', "typed.json:1"),
    "cut.jsonl.gz": (gzip.compress(b'{"question": "a", "answer": "b"}\n' * 99)[:-9], "cut.jsonl"),
    "nothing.jsonl": (b"", "nothing.jsonl"),
    "not.parquet": (b"PAR1 is how it begins", "not.parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_data_ends_with_one_clear_line(hpo: Hpo, name: str) -> None:
    content, place = BAD_FILES[name]
    (hpo.folder / name).write_bytes(content)
    rows(hpo)
    file = data_file(
        hpo,
        f"  train: {{path: {name}, prompt: question, completion: answer}}\n"
        "  loss: {path: rows.jsonl}\n",
        model=False,
    )
    (line,) = hpo("data", "prepare", file).refusal()
    assert line.startswith(str(hpo.folder / place))
    assert "allowed:" in line


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not here")
@pytest.mark.parametrize(
    ("train", "count"),
    [
        (f"{{path: {REAL}/gsm8k/train.jsonl, prompt: question, completion: answer}}", 7473),
        (f"{{path: {REAL}/humaneval/HumanEval.jsonl.gz, completion: canonical_solution}}", 164),
        (
            f"{{path: {REAL}/cima/dataset.json, records: [prepDataset, shapeDataset], "
            "format: dialogue, prompt: past_convo, completion: tutorResponses}",
            3315,
        ),
    ],
    ids=["gsm8k", "humaneval", "cima"],
)
def test_reports_on_real_data_add_up(hpo: Hpo, train: str, count: int) -> None:
    file = data_file(
        hpo,
        f"  train: {train}\n  loss: {{fraction: 0.05, seed: 42}}\n"
        "  cleaning: {min_characters: 50, max_characters: 4096, incomplete: true,\n"
        "    code_blocks: true, near_duplicates: {}}\n"
        "  quality: {type: computed}\n",
        model="gsm8k" in train,
    )
    report = hpo("data", "prepare", file, "--json").json
    train_set, loss_set = report["sets"]
    assert train_set["examples"] == count
    assert train_set["dropped"]["held out for loss"] == loss_set["kept"] > 0
    for part in report["sets"]:
        assert part["examples"] == part["kept"] + sum(part["dropped"].values())
        assert sum(part["counts"]["file"].values()) == part["kept"]
        if part["tokens"] is not None:
            assert sum(n for _, n in part["tokens"]["histogram"]) == part["kept"]


@pytest.mark.postgres
@pytest.mark.slow
def test_a_study_searches_the_field_that_is_trained_on(hpo: Hpo) -> None:
    varied = [
        {
            "question": row["question"],
            "solution": row["answer"],
            "output": f"Let us add. {row['answer']}",
        }
        for row in ROWS
    ]
    (hpo.folder / "varied.jsonl").write_text("".join(json.dumps(row) + "\n" for row in varied))
    study = hpo.write(
        "fields",
        (
            "train: {path: INPUTS/data/train.jsonl}",
            "train: {path: varied.jsonl, prompt: question, "
            "completion: {choices: [solution, output]}}",
        ),
        (
            "loss: {path: INPUTS/data/valid.jsonl}",
            "loss: {fraction: 0.2, completion: solution}\n"
            "  test: {fraction: 0.1, completion: solution}\n"
            "  cleaning: {}\n  quality: {type: computed}",
        ),
        ("max_examples: 320", "max_examples: 320\n  quality_weighting: true"),
        ("trials: 3", "trials: 4"),
    )
    ended = hpo("run", study, "--output", hpo.home / "out", "--no-dashboard")
    assert ended.code == 0, ended
    assert "data.train on output: 60 in = 43 kept + 17 dropped" in ended.out
    results = yaml.safe_load((hpo.home / "out" / "study_results.yaml").read_text())
    assert {trial["completion"] for trial in results["trials"]} == {"solution", "output"}
    assert results["training"]["completion"] in ("solution", "output")
    sets = results["data"]["sets"]
    assert sets["test"]["kept"] == 6
    assert sets["loss"]["kept"] == 11
    assert results["data"]["hash"].startswith("sha256:")
    assert results["base_model"]["test"]["loss"]["tokens"] > 0
    assert results["best_trial"]["test"]["loss"]["value"] > 0
    shown = hpo("study", "show", "fields").done()
    assert "data.test: 6 in = 6 kept + 0 dropped" in shown


def test_killing_the_preparation_leaves_nothing_half_done(hpo: Hpo) -> None:
    with (hpo.folder / "rows.jsonl").open("w") as stream:
        for n in range(30_000):
            stream.write(json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n")
    file = data_file(hpo, CLEANED, model=False)
    started = subprocess.Popen(
        [sys.executable, "-m", "hpo", "data", "prepare", str(file)],
        cwd=hpo.folder,
        env={**os.environ, "HPO_HOME": str(hpo.home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list((hpo.home / "data").glob("*.partial/examples-0/examples.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    shown = hpo("data", "prepare", file).done()
    assert "data.train: 30000 in" in shown
    assert not list((hpo.home / "data").glob("*.partial"))
