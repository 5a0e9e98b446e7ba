"""Files that only grow, mended after a crash and kept from other settings and processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpo.spec.errors import OutputError
from workers.generation import folder as folders
from workers.generation.folder import open_folder
from workers.generation.journal import Journal

SETTINGS = {"seed": 1, "levels": {"A1": {"top_p": 0.9}}}


def record(identity: str, attempt: int | None = 1, **more: Any) -> dict[str, Any]:
    provenance = {} if attempt is None else {"attempt": attempt}
    return {
        "id": identity,
        "level": "A1",
        "source": "generated",
        "completion": "à",
        "provenance": provenance,
        **more,
    }


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    assert journal.recover() == 0
    journal.append([record("a"), record("b")])
    journal.append([])
    journal.append([record("c")])
    assert [line["id"] for line in journal] == ["a", "b", "c"]
    assert journal.recover() == 0


@pytest.mark.parametrize("torn", ['{"id": "c", "le', "{", "\0\0\0", '{"id": "c"} x', "5"])
def test_only_a_torn_line_is_cut_off(tmp_path: Path, torn: str) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.append([record("a"), record("b")])
    before = journal.file.read_bytes()
    with journal.file.open("a") as stream:
        stream.write(torn)
    assert journal.recover() == len(torn)
    assert journal.file.read_bytes() == before


def test_a_torn_line_may_be_long_and_the_only_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.file.write_text('{"text": "' + "a" * 200_000)
    assert journal.recover() == 200_010
    assert journal.file.read_bytes() == b""


def test_a_whole_line_without_its_break_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.file.write_text(json.dumps(record("a")))
    assert journal.recover() == 0
    journal.append([record("b")])
    assert [line["id"] for line in journal] == ["a", "b"]


def test_a_bad_line_in_the_middle_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.file.write_text('{"id": 1}\nnonsense\n{"id": 2}\n')
    assert journal.recover() == 0
    with pytest.raises(OutputError, match=r"a\.jsonl:2: given a line that is no record"):
        list(journal)


def test_a_folder_is_taken_up_with_the_same_settings_only(tmp_path: Path) -> None:
    with open_folder(tmp_path / "deep" / "out") as folder:
        folder.claim({})
        # Nothing was written by those settings.
        folder.claim(SETTINGS)
        folder.refused.append([record("a")])
        folder.claim(SETTINGS)
        with pytest.raises(OutputError) as caught:
            folder.claim({"seed": 2, "levels": {"A1": {"top_p": 0.5}}})
    assert str(caught.value).splitlines() == [
        f"{folder.path} was begun with other settings: levels.A1.top_p: is 0.9, given 0.5",
        f"{folder.path} was begun with other settings: seed: is 1, given 2",
        "allowed: the same settings and inputs, or another output folder",
    ]


def test_responses_of_unknown_settings_are_not_taken_up(tmp_path: Path) -> None:
    (tmp_path / "responses.jsonl").write_text("{}\n")
    with (
        open_folder(tmp_path) as folder,
        pytest.raises(OutputError, match=r"without settings\.json"),
    ):
        folder.claim(SETTINGS)


def test_what_is_there_is_sorted(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        folder.responses.append([record("h", None, source="human"), record("a"), record("b", 2)])
        folder.refused.append([record("b"), record("c", None)])
        with folder.refused.file.open("a") as stream:
            stream.write('{"id"')
        written = folder.load()
    assert [line["id"] for line in written.accepted] == ["a", "b"]
    assert [line["id"] for line in written.refused] == ["b", "c"]
    assert (written.human, written.cut) == ({"h"}, 5)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([record("a"), record("a")], r"the response a \(attempt 1\) twice"),
        ([{"id": "a"}], "a record without level, provenance, source"),
    ],
)
def test_files_of_somebody_else_are_refused(
    tmp_path: Path, lines: list[dict[str, Any]], told: str
) -> None:
    with open_folder(tmp_path) as folder:
        folder.responses.append(lines)
        with pytest.raises(OutputError, match=told):
            folder.load()


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "LOCK_SECONDS", 0.2)
    code = (
        "import sys; from pathlib import Path; from workers.generation.folder import open_folder\n"
        "with open_folder(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(OutputError, match="another process writes"), open_folder(tmp_path):
            pass
        other.kill()
    with open_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="a file stands where a folder must be"),
        open_folder(tmp_path / "file"),
    ):
        pass
