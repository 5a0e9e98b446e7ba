from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bad_data import GOOD, BadFile, bad_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.spec.errors import InputError
from hpo.spec.sources import Source, WeightedSource
from workers.data.example import Example, RowProblem, Turn, UnusableRow
from workers.data.reading.formats import RowFormat, resolved
from workers.data.reading.rows import read_chunks

SHARED = Path(__file__).parents[4] / "shared" / "data"
PAIR = {"prompt": "1+1=", "completion": "2"}


def format_of(first: Mapping[str, Any], known: dict[str, Any] | None = None, **source: Any) -> Any:
    return RowFormat.of(Source(**source), origin="set", first=first, **(known or {}))


def examples(
    row: Mapping[str, Any], known: dict[str, Any] | None = None, **source: Any
) -> list[Example]:
    found: list[Example] = format_of(row, known, **source).examples("set:1", row)
    return found


def turns(row: Mapping[str, Any], **source: Any) -> list[tuple[str, str]]:
    (example,) = examples(row, **source)
    return [(turn.role, turn.content) for turn in example.turns]


def problem(
    row: Mapping[str, Any], known: dict[str, Any] | None = None, **source: Any
) -> RowProblem:
    with pytest.raises(UnusableRow) as caught:
        examples(row, known, **source)
    assert caught.value.problem.where == "set:1"
    assert "\n" not in str(caught.value)
    return caught.value.problem


# Prompt and completion


def test_a_row_becomes_an_example_that_knows_its_place() -> None:
    (example,) = examples(PAIR)
    assert example == Example.pair("1+1=", "2")
    assert (example.where, example.origin) == ("set:1", "set")


def test_an_empty_prompt_is_a_prompt() -> None:
    assert turns({"prompt": "", "completion": "ä\n"}) == [("user", ""), ("assistant", "ä\n")]


@pytest.mark.parametrize(
    ("row", "kind", "given"),
    [
        ({"question": "q", "completion": "c"}, "missing field", "no field 'prompt'"),
        ({**PAIR, "prompt": 3}, "wrong type", "a number in 'prompt'"),
        ({**PAIR, "prompt": ["a"]}, "wrong type", "an array in 'prompt'"),
        ({**PAIR, "completion": 2.5}, "wrong type", "a number in 'completion'"),
        ({**PAIR, "completion": 0}, "wrong type", "a number in 'completion'"),
        ({**PAIR, "completion": True}, "wrong type", "a boolean in 'completion'"),
        ({**PAIR, "completion": None}, "wrong type", "null in 'completion'"),
        ({**PAIR, "completion": {}}, "wrong type", "an object in 'completion'"),
        ({**PAIR, "completion": b"2"}, "wrong type", "a value of type bytes in 'completion'"),
        ({**PAIR, "completion": ""}, "empty completion", "an empty 'completion'"),
        ({**PAIR, "completion": " \n"}, "empty completion", "an empty 'completion'"),
        ({**PAIR, "completion": []}, "empty completion", "an empty list in 'completion'"),
        ({**PAIR, "completion": ["a", ""]}, "empty completion", "'completion' (item 2)"),
        ({**PAIR, "completion": ["a", 1]}, "wrong type", "a number in 'completion' (item 2)"),
        ({**PAIR, "prompt": "1\ud800"}, "encoding", "surrogate pair in 'prompt' at character 2"),
        ({**PAIR, "completion": "\udc80"}, "encoding", "surrogate pair in 'completion'"),
    ],
)
def test_a_row_that_cannot_be_used_is_told(row: dict[str, Any], kind: str, given: str) -> None:
    found = problem(row)
    assert found.kind == kind
    assert given in found.given


def test_a_missing_field_names_those_that_are_there() -> None:
    assert "'question', 'answer'" in problem({"question": "q", "answer": "a"}).allowed
    assert "no fields" in problem({}).allowed
    assert "and 5 more" in problem({str(number): 1 for number in range(25)}).allowed


def test_advice_says_how_a_number_or_a_list_is_used() -> None:
    assert '"{prompt}"' in problem({**PAIR, "prompt": 3}).allowed
    assert "format: dialogue" in problem({**PAIR, "prompt": ["a"]}).allowed


def test_a_list_of_completions_makes_an_example_of_each() -> None:
    found = examples({**PAIR, "completion": ["2", "two"]})
    assert found == [Example.pair("1+1=", "2"), Example.pair("1+1=", "two")]
    assert {example.where for example in found} == {"set:1"}


def test_texts_are_filled_with_fields() -> None:
    row = {"q": "1+1", "n": 3, "sure": True, "why": "so", "a": 2.0}
    named = {"prompt": "{q}={{{n}}} {sure}", "completion": "{why}\n#### {a}"}
    assert turns(row, **named) == [("user", "1+1={3} true"), ("assistant", "so\n#### 2.0")]
    assert problem({**row, "why": None}, **named).given == "null in 'why'"
    assert problem({"q": "1"}, **named).kind == "missing field"
    assert problem({**row, "q": "\ud800"}, **named).kind == "encoding"
    assert problem({**row, "a": " "}, prompt="q", completion="{a}").kind == "empty completion"


def test_a_dotted_name_reaches_deeper() -> None:
    row = {"data": {"q": "1+1=", "out": {"a": "2"}}, "data.q": "itself"}
    assert turns(row, prompt="data.q", completion="data.out.a")[0] == ("user", "itself")
    del row["data.q"]
    assert examples(row, prompt="data.q", completion="data.out.a") == examples(PAIR)
    assert "'data.out.b'" in problem(row, prompt="data.q", completion="data.out.b").given


# Conversations

PARTS = [{"type": "text", "text": "Good"}, {"type": "text", "text": "bye"}]
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": PARTS},
]
SAID = [
    ("system", "Be short."),
    ("user", "Hi"),
    ("assistant", "Hello"),
    ("user", "Bye"),
    ("assistant", "Goodbye"),
]


def test_messages_become_turns() -> None:
    assert turns({"messages": CHAT}) == SAID
    assert turns({"chat": CHAT}, messages="chat") == SAID


def test_sharegpt_becomes_the_same_turns() -> None:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    talk = [{"from": names[role], "value": content} for role, content in SAID]
    assert turns({"conversations": talk}) == SAID
    assert turns({"talk": talk}, messages="talk") == SAID
    assert turns({"talk": talk}, messages="talk", format="sharegpt") == SAID


def test_a_conversation_ends_with_its_last_answer() -> None:
    assert turns({"messages": [*CHAT, CHAT[1], CHAT[1]]}) == SAID
    twice = [CHAT[1], CHAT[1], CHAT[2]]
    assert [role for role, _ in turns({"messages": twice})] == ["user", "user", "assistant"]


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "kind", "given"),
    [
        ("text", "wrong type", "a string in 'messages'"),
        ([], "empty completion", "no answer"),
        ([message("user", "Hi")], "empty completion", "no answer"),
        ([message("user", "Hi"), message("assistant", " ")], "empty completion", "an empty answer"),
        (["Hi"], "wrong type", "a string in 'messages' (turn 1)"),
        ([message("tool", "3")], "wrong type", "the role 'tool' in 'messages' (turn 1)"),
        ([message(None, "3")], "wrong type", "the role None"),
        ([{"role": "user"}], "missing field", "no field 'content'"),
        ([message("user", None)], "wrong type", "null in 'messages' (turn 1)"),
        ([message("user", [{"type": "image"}])], "wrong type", "a part of type 'image'"),
        ([message("user", ["Hi"])], "wrong type", "a string in 'messages' (turn 1)"),
        ([message("user", "\ud800")], "encoding", "surrogate"),
    ],
)
def test_messages_that_cannot_be_used_are_told(messages: Any, kind: str, given: str) -> None:
    found = problem({"messages": messages})
    assert found.kind == kind
    assert given in found.given


def test_alpaca_joins_instruction_and_input() -> None:
    row = {"instruction": "Add.", "input": "1+1", "output": "2"}
    assert turns(row) == [("user", "Add.\n\n1+1"), ("assistant", "2")]
    for empty in ("", " ", None):
        assert turns({**row, "input": empty})[0] == ("user", "Add.")
    assert turns({"instruction": "Add.", "output": "2"})[0] == ("user", "Add.")
    assert problem({**row, "input": 3}).kind == "wrong type"
    assert problem({**row, "output": " "}).kind == "empty completion"


def test_a_text_is_one_turn() -> None:
    assert turns({"text": "Once."}) == [("assistant", "Once.")]
    assert turns({"body": "Once."}, text="body") == [("assistant", "Once.")]
    assert problem({"text": ""}).kind == "empty completion"


def test_a_dialogue_alternates_backwards_from_the_user() -> None:
    named = {"format": "dialogue", "prompt": "past", "completion": "next"}
    row = {"past": ["Say tree.", "Albero?", "Right?"], "next": ["Yes.", "Very good."]}
    first, second = examples(row, **named)
    assert [turn.role for turn in first.turns] == ["user", "assistant", "user", "assistant"]
    assert first.turns[:-1] == second.turns[:-1]
    assert (first.completion, second.completion) == ("Yes.", "Very good.")
    assert turns({"past": ["a", "b"], "next": "c"}, **named)[0] == ("assistant", "a")
    assert problem({**row, "past": []}, **named).given == "an empty list in 'past'"
    assert problem({**row, "past": "a"}, **named).given == "a string in 'past'"
    assert problem({**row, "past": ["a", 1]}, **named).given == "a number in 'past' (item 2)"


def test_a_dialogue_needs_a_field() -> None:
    with pytest.raises(InputError, match=r"^set: given the prompt .* in a dialogue"):
        format_of({}, format="dialogue", prompt="{past}")


def test_a_system_prompt_of_the_row_goes_first() -> None:
    assert turns({**PAIR, "rule": "Be short."}, system="rule")[0] == ("system", "Be short.")
    for row in ({**PAIR, "rule": ""}, {**PAIR, "rule": None}):
        assert turns(row, system="rule")[0] == ("user", "1+1=")
    assert problem(PAIR, system="rule").kind == "missing field"
    assert problem({**PAIR, "rule": 1}, system="rule").kind == "wrong type"


# The format that is meant


@pytest.mark.parametrize(
    ("first", "named", "found"),
    [
        (PAIR, {}, "prompt-completion"),
        ({**PAIR, "messages": []}, {}, "prompt-completion"),
        ({"messages": [], "text": ""}, {}, "messages"),
        ({"conversations": []}, {}, "sharegpt"),
        ({"conversations": CHAT}, {}, "messages"),
        ({"messages": [{"from": "human"}]}, {}, "sharegpt"),
        ({"instruction": "", "output": "", "text": ""}, {}, "alpaca"),
        ({"text": ""}, {}, "text"),
        ({"body": ""}, {}, "prompt-completion"),
        ({"text": ""}, {"prompt": "question"}, "prompt-completion"),
        ({"text": ""}, {"completion": "{text}"}, "prompt-completion"),
        (PAIR, {"text": "body"}, "text"),
        (PAIR, {"messages": "chat"}, "messages"),
        (PAIR, {"format": "alpaca"}, "alpaca"),
    ],
)
def test_the_format_follows_from_names_and_first_row(
    first: dict[str, Any], named: dict[str, Any], found: str
) -> None:
    assert resolved(Source(**named), first).format == found


# What is known besides


def test_fields_labels_and_answers_are_kept() -> None:
    row = {**PAIR, "level": 3, "source": None, "topic": {"name": "sums"}, "final": 2}
    known = {
        "template_fields": ["level"],
        "labels": ["level", "source", "absent", "topic.name"],
        "answer": "final",
    }
    (example,) = examples(row, known)
    assert example.fields == {"level": "3"}
    assert example.labels == {"level": "3", "topic.name": "sums"}
    assert example.answer == "2"
    assert problem(PAIR, {"template_fields": ["level"]}).kind == "missing field"
    assert problem(PAIR, {"answer": "final"}).kind == "missing field"
    assert problem(row, {"labels": ["topic"]}).kind == "wrong type"


@pytest.mark.parametrize(("value", "quality"), [(0, 0.0), (1, 1.0), (0.25, 0.25), ("0.5", 0.5)])
def test_a_quality_is_a_number_from_0_to_1(value: Any, quality: float) -> None:
    (example,) = examples({**PAIR, "score": value}, {"quality": "score"})
    assert example.quality == quality


@pytest.mark.parametrize(
    "value", [-0.1, 1.1, True, None, "high", "nan", float("nan"), [], 10**400, "inf"]
)
def test_anything_else_is_no_quality(value: Any) -> None:
    found = problem({**PAIR, "score": value}, {"quality": "score"})
    assert (found.kind, found.allowed) == ("wrong type", "a number from 0 to 1")


def test_a_missing_quality_is_told() -> None:
    assert problem(PAIR, {"quality": "score"}).kind == "missing field"


SHOTS = [
    [{"input": "1", "output": "2"}, {"input": "3", "output": "4"}],
    [["1", "2"], ["3", 4]],
    {"input": ["1", 3], "output": ["2", "4"]},
    {"inputs": ["1", "3"], "outputs": ["2", "4"]},
]


@pytest.mark.parametrize("value", [*SHOTS, *map(json.dumps, SHOTS)])
def test_pairs_of_input_and_output_are_shots(value: Any) -> None:
    (example,) = examples({**PAIR, "tests": value}, examples="tests")
    assert example.shots == (("1", "2"), ("3", "4"))


@pytest.mark.parametrize("value", [None, [], "", "[]", {"input": [], "output": []}])
def test_an_example_may_have_no_shots(value: Any) -> None:
    (example,) = examples({**PAIR, "tests": value}, examples="tests")
    assert example.shots == ()


@pytest.mark.parametrize(
    "value",
    [
        3,
        "text",
        "[" * 100_000,
        ["a"],
        [["1"]],
        [["1", None]],
        [{"input": "1"}],
        {"input": ["1"]},
        {"input": "1", "output": "2"},
        {"input": ["1"], "output": []},
    ],
)
def test_other_shapes_are_no_shots(value: Any) -> None:
    assert problem({**PAIR, "tests": value}, examples="tests").kind == "wrong type"


def test_a_missing_field_of_shots_is_told() -> None:
    assert problem(PAIR, examples="tests").kind == "missing field"


# Which rows are wanted


@pytest.mark.parametrize(
    ("wanted", "value", "let_through"),
    [
        ("A1", "A1", True),
        ("A1", "a1", False),
        (["A1", "A2"], "A2", True),
        (["A1", "A2"], "B1", False),
        (1, 1.0, True),
        (1.0, "1", True),
        (1, "1.0", True),
        ("1", "1.0", False),
        ("1", 1, False),
        (1, True, False),
        (True, 1, False),
        (True, True, True),
        (True, "True", True),
        (False, "false", True),
        (True, "yes", False),
        (0.5, "half", False),
        ("A1", None, False),
        ("A1", ["A1"], False),
        ([1, "one"], "one", True),
    ],
)
def test_rows_are_let_through_by_value(wanted: Any, value: Any, let_through: bool) -> None:
    row = {**PAIR, "level": value}
    assert format_of(row, where={"level": wanted}).wanted(row) is let_through


def test_every_filter_counts_and_may_reach_deeper() -> None:
    found = format_of(PAIR, where={"meta.level": "A1", "part": 1})
    assert found.wanted({"meta": {"level": "A1"}, "part": 1})
    assert not found.wanted({"meta": {"level": "A1"}, "part": 2})


def test_a_row_without_the_filtered_field_is_a_problem() -> None:
    assert format_of(PAIR, where={"level": "A1"}).wanted(PAIR)
    assert problem(PAIR, where={"level": "A1"}).given == "no field 'level'"


# Files


def read(path: str, **options: Any) -> tuple[list[Example], list[RowProblem]]:
    source = WeightedSource(path=path, **options.pop("source", {}))
    made: list[Example] = []
    problems: list[RowProblem] = []
    form: RowFormat | None = None
    for chunk in read_chunks(path, records=source.records, **options):
        for where, row in pickle.loads(pickle.dumps(chunk)).rows():
            if isinstance(row, RowProblem):
                problems.append(row)
                continue
            quality = "score" if "score" in row else None
            form = form or RowFormat.of(source, quality=quality, origin=path, first=row)
            try:
                made += pickle.loads(pickle.dumps(form)).examples(where, row)
            except UnusableRow as error:
                problems.append(error.problem)
    return made, problems


def test_every_kind_of_problem_is_told_in_every_kind_of_file(tmp_path: Path) -> None:
    seen: list[BadFile] = []
    for file in bad_files(tmp_path):
        made, problems = read(file.path)
        assert [found.kind for found in problems] == [file.kind] * file.bad_rows, file
        assert problems[0].where == file.where
        assert len(made) == 3 - file.bad_rows
        assert all(example.completion == GOOD["completion"] for example in made)
        seen.append(file)
    assert len(seen) == 40


FIELD = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
ROWS = st.lists(
    st.fixed_dictionaries({"prompt": FIELD, "completion": FIELD, "level": FIELD}), min_size=1
)


def as_files(folder: Path, rows: list[dict[str, str]]) -> list[str]:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    texts = {
        "a.jsonl": "\n".join(json.dumps(row) for row in rows),
        "a.json": json.dumps({"deep": {"rows": dict(enumerate(rows))}}),
        "a.csv": table.getvalue(),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    return [str(folder / name) for name in texts]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=ROWS, size=st.integers(1, 5))
def test_examples_are_the_same_from_every_file(
    tmp_path: Path, rows: list[dict[str, str]], size: int
) -> None:
    wanted = [Example.pair(row["prompt"], row["completion"]) for row in rows]
    for path in as_files(tmp_path, rows):
        records = {"records": ["deep.rows"]} if path.endswith(".json") else {}
        made, problems = read(path, rows_per_chunk=size, source=records)
        assert (made, problems) == (wanted, [])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data sets are not here")
@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("gsm8k/train.jsonl", {"prompt": "question", "completion": "answer"}, 7473),
        ("humaneval/HumanEval.jsonl.gz", {"completion": "canonical_solution"}, 164),
        (
            "cima/dataset.json",
            {
                "records": ["prepDataset", "shapeDataset"],
                "format": "dialogue",
                "prompt": "past_convo",
                "completion": "tutorResponses",
            },
            3315,
        ),
    ],
)
def test_public_data_sets_are_read(file: str, source: dict[str, Any], count: int) -> None:
    made, problems = read(str(SHARED / file), source=source)
    assert (len(made), problems) == (count, [])
    assert all(isinstance(example.turns[-1], Turn) for example in made)
