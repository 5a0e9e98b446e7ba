"""`hpo compare`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.options import Database, Json, Name, connected, study_name

if TYPE_CHECKING:
    from hpo.results.answers import GradedAnswers
    from hpo.results.comparison import Change, Comparison

    Answers = tuple[GradedAnswers | None, GradedAnswers | None]

SHOWN = "3"

Side = Annotated[
    str, typer.Argument(help="A trial's number, best or base; NUMBER@STEP for another evaluation.")
]
Test = Annotated[bool, typer.Option("--test", help="On the test set.")]
Items = Annotated[
    str, typer.Option(help="How many changed items of each kind are shown: a number, or all.")
]


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command()(compare)


def compare(
    study: Name,
    before: Side = "base",
    after: Side = "best",
    test: Test = False,
    items: Items = SHOWN,
    json_output: Json = False,
    database: Database = None,
) -> None:
    """Compare two trials, or a trial with the base model, item by item.

    Shows scores before and after on the same items, how sure the difference
    is, and which items changed. Without more words: the base model and the
    best trial.
    """
    from hpo.results.answers import read_answers
    from hpo.results.chosen import choose
    from hpo.results.comparison import compare as compared
    from hpo.results.snapshot import StudyView
    from hpo.search.register import find

    most = _most(items)
    name = study_name(study)
    with connected(database) as connection:
        view = StudyView(connection, find(connection, name))
        sides = choose(view, before, test=test), choose(view, after, test=test)
        comparison = compared(*sides)
        first, second = (read_answers(view.answers, side.record) for side in sides)
    answers = first, second
    if json_output:
        print(json.dumps(comparison.as_dict() | {"items": _changes(comparison, answers, most)}))
    else:
        _show(comparison, name, answers, most)


def _most(items: str) -> int | None:
    from hpo.spec.errors import InputError

    if items == "all":
        return None
    if not items.isdecimal():
        raise InputError(f"--items: given {items!r}; allowed: all, or a number")
    return int(items)


def _show(comparison: Comparison, study: str, answers: Answers, most: int | None) -> None:
    from hpo.cli.comparing import difference_lines, head_lines, item_lines, tables
    from hpo.cli.values import Printer

    printer = Printer()
    printer.lines(head_lines(comparison, study))
    for table in tables(comparison, printer.console):
        printer.table(table)
    if comparison.accuracy is not None:
        printer.lines(["", *difference_lines(comparison.accuracy)])
        printer.lines(item_lines(comparison, *answers, most))


def _changes(comparison: Comparison, answers: Answers, most: int | None) -> dict[str, Any] | None:
    """Every item that changed; the first ones with their texts."""
    accuracy = comparison.accuracy
    if accuracy is None:
        return None
    return {
        name: [
            asdict(change) | (_texts(change, answers) if most is None or index < most else {})
            for index, change in enumerate(changes)
        ]
        for name, changes in (("improved", accuracy.improved), ("worsened", accuracy.worsened))
    }


def _texts(change: Change, answers: Answers) -> dict[str, Any]:
    known = next((side for side in answers if side is not None), None)
    if known is None:
        return {}
    texts = [side.of(change.item) if side is not None else None for side in answers]
    given = [asdict(side)["samples"] if side is not None else None for side in texts]
    item = asdict(known.items[change.item])
    return item | {"answers_before": given[0], "answers_after": given[1]}
