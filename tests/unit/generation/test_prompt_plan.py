"""From rows to prompts, to human responses, or to a problem with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from generate_text import spec_of, write_rows

from hpo.spec.errors import InputError
from workers.generation.plan import Plan, read_plan

SOURCE = "{path: prompts.jsonl, prompt: question, level: level}"
ROWS = [{"question": f"What is {n}?", "level": "A1" if n % 2 else "C2"} for n in range(6)]


def plan_of(folder: Path, source: str, *edits: tuple[str, str]) -> Plan:
    return read_plan(spec_of(folder, (SOURCE, source.replace("HERE", str(folder))), *edits))


def problem(folder: Path, source: str, *rows: Any) -> str:
    write_rows(folder / "rows.jsonl", *rows)
    with pytest.raises(InputError) as caught:
        plan_of(folder, source)
    lines = str(caught.value).splitlines()
    assert lines[-1].endswith("on_error: drop")
    assert len(lines) == 2
    return lines[0].removeprefix(str(folder / "rows.jsonl"))


def test_prompts_have_levels_and_system_prompts(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", *ROWS)
    plan = plan_of(tmp_path, "{path: HERE/rows.jsonl, prompt: question, level: level}")
    assert [prompt.text for prompt in plan.prompts] == [row["question"] for row in ROWS]
    assert [prompt.level for prompt in plan.prompts] == ["C2", "A1"] * 3
    assert [prompt.system for prompt in plan.prompts[:2]] == [None, "You teach beginners."]
    assert plan.prompts[1].origin == f"{tmp_path}/rows.jsonl:2"


def test_rows_add_up(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *ROWS,
        ROWS[0],
        {"question": "And?", "level": "B9"},
        {"question": "Answered?", "level": "A1", "answer": ["Yes.", " ", "No."]},
        {"question": "Not answered?", "level": "C2", "answer": []},
    ]
    write_rows(tmp_path / "rows.jsonl", *rows)
    source = "{path: HERE/rows.jsonl, prompt: question, level: level, response: answer}"
    plan = plan_of(
        tmp_path,
        source,
        ("output: out", "output: out\non_error: drop"),
        ("C2: {max_new_tokens: 40}", "C2: {samples: 2}"),
    )
    count = plan.rows
    assert (count.rows, count.prompts, count.human, count.same_prompt) == (10, 5, 1, 1)
    assert (count.beyond_samples, count.unusable, count.human_responses) == (2, 1, 2)
    parts = (count.prompts, count.human, count.same_prompt, count.beyond_samples, count.unusable)
    assert sum(parts) == count.rows
    assert [(human.text, human.number) for human in plan.humans] == [("Yes.", 1), ("No.", 2)]
    assert len({human.id for human in plan.humans}) == 2


def test_records_filters_and_limits(tmp_path: Path) -> None:
    records = {str(n): {"q": f"q{n}", "kind": n % 3} for n in range(9)}
    (tmp_path / "all.json").write_text(json.dumps({"one": records, "two": []}))
    plan = plan_of(
        tmp_path,
        "{path: HERE/all.json, records: [one], where: {kind: [0, 2]}, prompt: 'Say {q}.', "
        "fixed_level: A1, samples: 4}",
    )
    assert [prompt.text for prompt in plan.prompts] == ["Say q0.", "Say q2.", "Say q3.", "Say q5."]


def test_a_dialogue_ends_with_the_learner(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"past": ["Say cat.", "Cane?", "No.", "Gatto?"]})
    source = "{path: HERE/rows.jsonl, format: dialogue, prompt: past, fixed_level: A1}"
    [prompt] = plan_of(tmp_path, source).prompts
    assert [turn.role for turn in prompt.turns] == ["assistant", "user", "assistant", "user"]
    assert prompt.text == "Say cat.\n\nCane?\n\nNo.\n\nGatto?"


def test_messages_may_bring_a_system_prompt(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Ciao?"}]
    own = [{"role": "User", "content": "Ciao?"}]
    write_rows(tmp_path / "rows.jsonl", {"turns": turns}, {"turns": own})
    source = "{path: HERE/rows.jsonl, format: messages, prompt: turns, fixed_level: A1}"
    first, second = plan_of(tmp_path, source).prompts
    assert (first.system, second.system) == ("Be brief.", "You teach beginners.")
    assert first.turns == second.turns
    assert first.id != second.id


def test_a_default_level_stands_in(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", {"prompt": "a", "l": None}, {"prompt": "b"})
    plan = plan_of(
        tmp_path,
        "{path: HERE/rows.jsonl, level: l}",
        ("output: out", "output: o\ndefault_level: C2"),
    )
    assert [prompt.level for prompt in plan.prompts] == ["C2", "C2"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"prompt": "a", "level": "Z9"},
            ":1: given the level 'Z9'; allowed: one of the levels A1, C2",
        ),
        (
            {"prompt": "a"},
            ":1: given no level in 'level'; allowed: one of the levels A1, C2, or a default_level",
        ),
        ({"level": "A1"}, ":1: given no field 'prompt'; allowed: a field that is there: 'level'"),
        (
            {"prompt": "  ", "level": "A1"},
            ":1: given no question at the end of 'prompt'; "
            "allowed: a text, or turns whose last one is the user's and not blank",
        ),
        (
            {"prompt": "a", "level": "A1", "answer": 5},
            ":1: given a number in 'answer'; allowed: a text or a list of texts",
        ),
        ([1], ":1: given an array for a line; allowed: one JSON object per line"),
    ],
)
def test_an_unusable_row_is_named(tmp_path: Path, row: Any, told: str) -> None:
    source = "{path: HERE/rows.jsonl, level: level, response: answer}"
    assert problem(tmp_path, source, row) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", ":1: given a string in 'turns'; allowed: a list of turns"),
        ([], ":1: given an empty list in 'turns'; allowed: a list of turns"),
        (
            [{"role": "judge", "content": "a"}],
            ":1: given a turn without a known role and content in 'turns'; "
            "allowed: turns with role (system, user, assistant) and content",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            ":1: given no question at the end of 'turns'; "
            "allowed: a text, or turns whose last one is the user's and not blank",
        ),
    ],
)
def test_unusable_turns_are_named(tmp_path: Path, value: Any, told: str) -> None:
    source = "{path: HERE/rows.jsonl, format: messages, prompt: turns, fixed_level: A1}"
    assert problem(tmp_path, source, {"turns": value}) == told


def test_many_problems_are_not_all_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", *({"level": "A1"} for _ in range(50)))
    with pytest.raises(InputError) as caught:
        plan_of(tmp_path, "{path: HERE/rows.jsonl, level: level}")
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-2]) == (22, "30 rows more cannot be used")


def test_seeds_depend_on_prompt_and_attempt_alone(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", *ROWS)
    source = "{path: HERE/rows.jsonl, prompt: question, level: level}"
    prompts = plan_of(tmp_path, source).prompts
    write_rows(tmp_path / "rows.jsonl", *reversed(ROWS))
    turned = list(reversed(plan_of(tmp_path, source).prompts))
    seeds = [[prompt.seed(7, attempt) for attempt in (1, 2)] for prompt in prompts]
    assert seeds == [[prompt.seed(7, attempt) for attempt in (1, 2)] for prompt in turned]
    assert len({seed for pair in seeds for seed in pair}) == 12
    assert all(0 <= seed < 1 << 32 for pair in seeds for seed in pair)
    assert prompts[0].seed(8, 1) != prompts[0].seed(7, 1)


def test_ids_do_not_depend_on_where_a_source_lies(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "Ciao?", "level": "A1", "answer": ["Yes.", "Yes."]},
        {"question": "Ciao?", "level": "A1", "answer": "Yes."},
        {"question": "Gatto?", "level": "A1"},
    ]
    plans = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        path = f"{tmp_path}/{name}/rows.jsonl"
        source = f"{{path: {path}, prompt: question, level: level, response: answer}}"
        write_rows(tmp_path / name / "rows.jsonl", *rows)
        plans.append(plan_of(tmp_path, f"{source}\n  - {source}"))
    one, other = plans
    assert [human.id for human in one.humans] == [human.id for human in other.humans]
    assert [found.id for found in one.prompts] == [found.id for found in other.prompts]
    # Every response of every row has an id of its own, in the same file read twice, too.
    assert len({human.id for human in one.humans}) == 6
    assert one.humans[0].prompt.origin != other.humans[0].prompt.origin
