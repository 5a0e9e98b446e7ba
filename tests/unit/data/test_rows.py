from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from hpo.spec.errors import InputError
from workers.data.example import RowProblem
from workers.data.reading.fields import Row
from workers.data.reading.records import BLOCK
from workers.data.reading.rows import CHUNK_SIZE, Chunk, read_chunks

GOOD = '{"prompt": "1+1=", "completion": "2"}'
ROW = json.loads(GOOD)


def write(folder: Path, name: str, content: str | bytes) -> str:
    file = folder / name
    raw = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(file)


def read(path: str, **options: Any) -> list[tuple[str, Row | RowProblem]]:
    return [found for chunk in read_chunks(path, **options) for found in chunk.rows()]


def contents(path: str, **options: Any) -> list[Row | RowProblem]:
    return [row for _, row in read(path, **options)]


def refusal(path: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(path)
    assert "given" in message
    assert "allowed" in message
    return message


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.txt", "a", "A.JSONL", "a.jsonl.gz"])
def test_lines_become_rows_with_their_places(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, f'\n{GOOD}\r\n  \n{{"completion": "ä\\u2028\u2028"}}')
    assert read(path) == [(f"{path}:2", ROW), (f"{path}:4", {"completion": "ä\u2028\u2028"})]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", GOOD),
        ("a.json", f"[{GOOD}]"),
        ("a.csv", "prompt,completion\n1+1=,2"),
        ("a.csv.gz", "prompt,completion\n1+1=,2"),
    ],
)
def test_a_byte_order_mark_is_no_content(tmp_path: Path, name: str, text: str) -> None:
    assert contents(write(tmp_path, name, b"\xef\xbb\xbf" + text.encode())) == [ROW]


def test_joined_files_may_have_marks_between_them(tmp_path: Path) -> None:
    mark = "\ufeff"
    assert contents(write(tmp_path, "a.jsonl", f"{mark}{GOOD}\n{mark}{GOOD}\n")) == [ROW, ROW]


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ('{"prompt": "1+1=", ', "malformed", "malformed JSON"),
        ("[1, 2]", "malformed", "an array for a line"),
        ('"text"', "malformed", "a string for a line"),
        ("1" * 5000, "malformed", "too many digits"),
        ("[" * 100_000, "malformed", "nested too deeply"),
        (b'{"prompt": "\xe4"}', "encoding", "no UTF-8 at column 13"),
    ],
)
def test_a_bad_line_is_a_problem_among_good_rows(
    tmp_path: Path, line: str | bytes, kind: str, said: str
) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path, "a.jsonl", b"\n".join([GOOD.encode(), raw, GOOD.encode()]))
    good, bad, more = contents(path)
    assert good == more == ROW
    assert isinstance(bad, RowProblem)
    assert (bad.where, bad.kind) == (f"{path}:2", kind)
    assert said in bad.given


def test_lines_stay_undecoded_in_a_chunk(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", f"{GOOD}\n" * 10)
    chunks = list(read_chunks(path, rows_per_chunk=4))
    assert [(chunk.first, chunk.lines.count(b"\n")) for chunk in chunks] == [(1, 4), (5, 4), (9, 2)]
    assert pickle.loads(pickle.dumps(chunks)) == chunks


def test_long_lines_make_small_chunks(tmp_path: Path) -> None:
    row = {"prompt": "x" * (CHUNK_SIZE // 2), "completion": "y"}
    for name, text in (
        ("a.jsonl", "\n".join([json.dumps(row)] * 6)),
        ("a.json", json.dumps([row] * 6)),
        ("a.csv", "prompt,completion\n" + f"{row['prompt']},y\n" * 6),
    ):
        chunks = list(read_chunks(write(tmp_path, name, text)))
        assert len(chunks) == 3, name
        assert [found for chunk in chunks for _, found in chunk.rows()] == [row] * 6


def test_a_long_parquet_row_makes_small_chunks(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    texts = [str(number) * (CHUNK_SIZE // 4) for number in range(8)]
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=2, compression="none")
    chunks = list(read_chunks(path))
    assert max(len(chunk.parsed) for chunk in chunks) <= 4
    assert [row["text"] for chunk in chunks for _, row in chunk.rows()] == texts  # type: ignore[index]


def test_reading_stops_with_the_reader(tmp_path: Path) -> None:
    damaged = gzip.compress(f"{GOOD}\n".encode() * 400_000)[:-8]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damaged)
    first = next(read_chunks(str(path)))
    assert next(first.rows()) == (f"{path}:1", ROW)


# Whole files


@pytest.mark.parametrize(
    "name",
    ["missing.jsonl", "/nowhere/data", "./data", "a/b/c", "a.csv.gz", "/" + "n" * 5000, "/a\0b"],
)
def test_a_missing_file_is_refused(name: str) -> None:
    assert refusal(name).startswith(f"{name}: given no such file")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", " \n\n"),
        ("a.jsonl.gz", ""),
        ("a.json", "[]"),
        ("a.json", '{"rows": []}'),
        ("a.csv", ""),
        ("a.csv", "\n\n"),
        ("a.csv", "prompt,completion\n\n"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, text: str) -> None:
    assert "no rows" in refusal(write(tmp_path, name, text))


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    assert "no rows" in refusal(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_another_encoding_is_told_once(tmp_path: Path, name: str, encoding: str) -> None:
    assert "iconv" in refusal(write(tmp_path, name, f"{GOOD}\n".encode(encoding)))


def test_packed_files_are_told_by_what_they_are(tmp_path: Path) -> None:
    packed = gzip.compress(GOOD.encode())
    assert "a gzip file" in refusal(write(tmp_path, "a.jsonl", packed))
    assert "a zip archive" in refusal(write(tmp_path, "b.csv", b"PK\x03\x04..."))


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(f"{GOOD}\n".encode() * 100)
    for name, content, said in (
        ("cut.jsonl.gz", packed[:-9], "end is missing"),
        ("cut.csv.gz", packed[:-9], "end is missing"),
        ("other.json.gz", b"no gzip", "damaged gzip"),
        ("bits.jsonl.gz", packed[:20] + b"\xff" * 20 + packed[40:], "damaged gzip"),
    ):
        (tmp_path / name).write_bytes(content)
        assert said in refusal(str(tmp_path / name))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    assert "no Parquet file" in refusal(write(tmp_path, "a.parquet", b"nothing of the kind"))
    path = tmp_path / "b.parquet"
    parquet.write_table(pa.table({"text": ["a" * 1000] * 1000}), path)
    path.write_bytes(b"PAR1" + b"\xff" * 60 + path.read_bytes()[64:])
    assert "damaged" in refusal(str(path))


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    assert "no such file" in refusal(str(loop))


def test_records_are_for_json_alone(tmp_path: Path) -> None:
    assert "records" in refusal(write(tmp_path, "a.jsonl", GOOD), records=["rows"])


# JSON


def test_records_of_a_list_have_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", f"[\n{GOOD},\n{{\n}} , {GOOD}]\n")
    assert read(path) == [
        (f"{path}:2 record 1", ROW),
        (f"{path}:3 record 2", {}),
        (f"{path}:4 record 3", ROW),
    ]


NESTED = {
    "version": 1.5,
    "rows": {"a": {"n": 1}, "b": {"n": 2}},
    "deep": {"train": [{"n": 3}], "other": [{"n": 4}]},
    "dotted.key": [{"n": 5}],
    "none": {},
}


@pytest.mark.parametrize(
    ("records", "numbers"),
    [
        (["rows"], [1, 2]),
        (["deep.other", "rows"], [4, 1, 2]),
        (["none", "deep.train", "dotted.key"], [3, 5]),
    ],
)
def test_records_lie_under_keys(tmp_path: Path, records: list[str], numbers: list[int]) -> None:
    path = write(tmp_path, "a.json", json.dumps(NESTED, indent=1))
    assert contents(path, records=records) == [{"n": number} for number in numbers]
    assert read(path, records=["rows"])[1][0] == f"{path}:7 record 2 of rows"


def test_the_only_list_of_an_object_is_taken(tmp_path: Path) -> None:
    assert contents(write(tmp_path, "a.json", f'{{"a.b": [{GOOD}]}}')) == [ROW]


@pytest.mark.parametrize(
    ("text", "records", "said"),
    [
        (json.dumps(NESTED), None, "the keys 'version', 'rows', 'deep'"),
        (json.dumps(NESTED), ["row"], "no key 'row' (records)"),
        (json.dumps(NESTED), ["deep.test"], "'deep.train', 'deep.other'"),
        (json.dumps(NESTED), ["version"], "a number under 'version'"),
        (f"[{GOOD}]", ["rows"], "a file without keys"),
        (f"{GOOD}\n{GOOD}\n", None, "named .jsonl"),
        (f"{GOOD}\n{GOOD}\n", ["prompt"], "a string under 'prompt'"),
        (f"{GOOD}\n{GOOD}\n", ["rows"], "named .jsonl"),
        (f"{GOOD}\n", None, "the keys 'prompt', 'completion'"),
        ("3", None, "given a number"),
        ("", None, "an empty file"),
        ("[1] 2", None, "after the end"),
    ],
)
def test_a_json_file_without_records_is_refused(
    tmp_path: Path, text: str, records: list[str] | None, said: str
) -> None:
    assert said in refusal(write(tmp_path, "a.json", text), records=records)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"[{GOOD},\n{GOOD[:-1]}\n]", 3, "Expecting ',' delimiter at column 1"),
        (f"[{GOOD}\n{GOOD}]", 2, "expecting , or ] at column 1"),
        (f"[{GOOD},\n]", 2, "Expecting value at column 1"),
        (f"[{GOOD}", 1, "expecting , or ]"),
        ('[{"a": "b', 1, "Unterminated string"),
        ('{"a": [], \n 3: 4}', 2, "expecting a key in quotes at column 2"),
        ('{"a" []}', 1, "expecting :"),
        ("[" * 100_000, 1, "nested too deeply"),
        (f"[{'1' * 5000}]", 1, "too many digits"),
        (b"[\n\xe4]", 2, "no UTF-8 at column 1"),
    ],
)
def test_malformed_json_is_named_by_its_line(
    tmp_path: Path, text: str | bytes, line: int, said: str
) -> None:
    path = write(tmp_path, "a.json", text)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: ")
    assert said in message


def test_a_json_file_is_read_in_blocks(tmp_path: Path) -> None:
    rows = [{"n": number, "text": "\\é\n" * (number % 7)} for number in range(60_000)]
    path = write(tmp_path, "a.json", '{"skipped": [1, {}], "rows": ' + json.dumps(rows) + "}")
    assert Path(path).stat().st_size > 2 * BLOCK
    assert contents(path, records=["rows"]) == rows


def test_a_bad_record_in_one_long_line_has_its_column(tmp_path: Path) -> None:
    start = f"[{', '.join([GOOD] * 40_000)}, "
    path = write(tmp_path, "a.json", start.encode() + b'{"a": "\xe4"}]')
    *_, (where, problem) = read(path)
    assert where == f"{path}:1 record 40001"
    assert isinstance(problem, RowProblem)
    assert problem.given.endswith(f"column {len(start) + 8}")


# CSV


def test_a_csv_record_has_the_place_of_its_first_line(tmp_path: Path) -> None:
    text = '\nprompt,completion\r\n"a\r\n\nb","say ""c"""\r\n\n,\n   \nd,e'
    path = write(tmp_path, "a.csv", text)
    assert read(path) == [
        (f"{path}:3", {"prompt": "a\r\n\nb", "completion": 'say "c"'}),
        (f"{path}:7", {"prompt": "", "completion": ""}),
        (f"{path}:9", {"prompt": "d", "completion": "e"}),
    ]


@pytest.mark.parametrize(
    ("record", "kind", "said"),
    [
        (b"only one", "malformed", "1 columns"),
        (b"one,two,three", "malformed", "3 columns"),
        (b'"one" more,two', "malformed", "malformed CSV"),
        (b'one,"t\nw\xe4"', "encoding", "line 4, column 2"),
    ],
)
def test_a_bad_record_is_a_problem_among_good_rows(
    tmp_path: Path, record: bytes, kind: str, said: str
) -> None:
    path = write(tmp_path, "a.csv", b"prompt,completion\n1+1=,2\n" + record + b"\n1+1=,2\n")
    good, bad, more = contents(path)
    assert good == more == ROW
    assert isinstance(bad, RowProblem)
    assert (bad.where, bad.kind) == (f"{path}:3", kind)
    assert said in bad.given


def test_an_open_quote_is_told_where_it_opens(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'prompt,completion\n1+1=,2\n"a,b\nc,d\n')
    assert read(path)[1][0] == f"{path}:3"
    assert isinstance(contents(path)[1], RowProblem)


def test_long_csv_fields_are_read_without_touching_the_process(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path, "a.csv", f"text\n{'x' * (before + 1)}\n")
    chunk = next(read_chunks(path))
    assert chunk.parsed[0][1] == {"text": "x" * (before + 1)}
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("header", [b"a,a", b"\xe4,b", b'"a" b,c'])
def test_an_unusable_header_is_refused(tmp_path: Path, header: bytes) -> None:
    refusal(write(tmp_path, "a.csv", header + b"\n1,2\n"))


# Parquet


def test_parquet_rows_are_numbered_across_batches(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    rows = [{"n": number, "list": [{"role": "user"}], "none": None} for number in range(10)]
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    found = read(path, rows_per_chunk=4)
    assert [row for _, row in found] == rows
    assert [where for where, _ in found] == [f"{path}:row {n}" for n in range(1, 11)]


# Folders and names


def test_a_name_needs_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "datasets is installed" in refusal("openai/gsm8k:main")


def test_a_folder_is_read_with_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    assert "a folder, and no data set with split 'train'" in refusal(str(folder))
    write(folder, "train.jsonl", f"{GOOD}\n{GOOD}\n")
    assert read(str(folder)) == [(f"{folder}[train]:1", ROW), (f"{folder}[train]:2", ROW)]
    assert "no data set with split 'nope'" in refusal(str(folder), split="nope")


# Properties

TEXT = st.text(st.characters(codec="utf-8"))
ROWS = st.lists(st.fixed_dictionaries({"prompt": TEXT, "ünicode": TEXT}), min_size=1, max_size=12)


def as_jsonl(rows: list[dict[str, str]], ascii_only: bool) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode()


def as_json(rows: list[dict[str, str]], ascii_only: bool) -> bytes:
    return json.dumps(rows, ensure_ascii=ascii_only, indent=1).encode()


def as_csv(rows: list[dict[str, str]], ascii_only: bool) -> bytes:
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if ascii_only else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(text, list(rows[0]), quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, str]], dictionary: bool) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, use_dictionary=dictionary)
    return bytes(sink.getvalue().to_pybytes())


WRITERS = {"jsonl": as_jsonl, "json": as_json, "csv": as_csv, "parquet": as_parquet}


@pytest.mark.parametrize("ending", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=ROWS, option=st.booleans(), size=st.integers(1, 6))
def test_rows_survive_files_of_every_kind(
    tmp_path: Path, ending: str, rows: list[dict[str, str]], option: bool, size: int
) -> None:
    writer: Callable[[list[dict[str, str]], bool], bytes] = WRITERS[ending]
    path = write(tmp_path, f"a.{ending}", writer(rows, option))
    chunks = list(read_chunks(path, rows_per_chunk=size))
    assert max(len(list(chunk.rows())) for chunk in chunks) <= size
    assert [row for chunk in chunks for _, row in chunk.rows()] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    lines=st.lists(st.sampled_from(["", " ", GOOD, "{", "é"]), min_size=1, max_size=20),
    size=st.integers(1, 5),
)
def test_chunks_keep_order_and_line_numbers(tmp_path: Path, lines: list[str], size: int) -> None:
    path = write(tmp_path, "a.jsonl", "\n".join([GOOD, *lines]))
    wanted = [f"{path}:{n}" for n, line in enumerate([GOOD, *lines], start=1) if line.strip()]
    found = read(path, rows_per_chunk=size)
    assert [where for where, _ in found] == wanted
    assert found == read(path) == list(Chunk(path, 1, Path(path).read_bytes()).rows())
