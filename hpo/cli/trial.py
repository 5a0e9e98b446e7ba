"""`hpo trial show`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.options import Database, Json, Name, connected, study_name

if TYPE_CHECKING:
    from hpo.results.answers import GradedAnswers
    from hpo.results.detail import TrialDetail
    from hpo.search.graded import StoredAnswers

app = typer.Typer(help="Look at single trials.", no_args_is_help=True)

SHOWN = 5
"""Answers that are shown where no number is given."""

Number = Annotated[str, typer.Argument(help="A trial's number, best or base.")]
Step = Annotated[
    int | None,
    typer.Option(
        min=0, help="The evaluation at this batch. Default: the best one.", show_default=False
    ),
]
Test = Annotated[bool, typer.Option("--test", help="The evaluation on the test set.")]
Answers = Annotated[
    int | None,
    typer.Option(min=1, help="Show so many items with their answers.", show_default=False),
]
Category = Annotated[
    str | None,
    typer.Option(help="Only items with an answer of this category.", show_default=False),
]
Item = Annotated[
    int | None, typer.Option(min=0, help="Show the item of this number.", show_default=False)
]
Save = Annotated[
    Path | None,
    typer.Option(help="Write all graded answers to this file, as JSONL.", show_default=False),
]


@app.callback()
def trial() -> None:
    """Look at single trials."""


@app.command()
def show(
    study: Name,
    number: Number = "best",
    step: Step = None,
    test: Test = False,
    answers: Answers = None,
    category: Category = None,
    item: Item = None,
    save: Save = None,
    json_output: Json = False,
    database: Database = None,
) -> None:
    """Show a trial: parameters, evaluations, and graded answers.

    Without a number the best one.
    """
    from hpo.results.answers import require_answers
    from hpo.results.detail import read_detail
    from hpo.results.snapshot import StudyView
    from hpo.search.register import find

    listed = any(given is not None for given in (answers, category, item))
    graded = None
    with connected(database) as connection:
        view = StudyView(connection, find(connection, study_name(study)))
        detail = read_detail(view, number, step=step, test=test)
        if listed or save is not None:
            graded = require_answers(view.answers, detail.shown)
    chosen = graded.chosen(category, item) if graded is not None and listed else []
    if graded is not None and save is not None:
        _save(graded, save)
    if json_output:
        print(json.dumps(detail.as_dict() | {"answers": _as_json(graded, chosen[:answers])}))
    elif graded is not None and listed:
        _show_answers(detail, graded, chosen, answers or SHOWN)
    elif save is None:
        _show(detail)


def _save(graded: GradedAnswers, file: Path) -> None:
    from hpo.results.answers import save_rows

    # Beside the JSON, which has the output for itself.
    print(f"written: {file} ({save_rows(graded, file)} answers)", file=sys.stderr)


def _as_json(graded: GradedAnswers | None, chosen: list[StoredAnswers]) -> list[dict[str, Any]]:
    from hpo.search.graded import answer_rows

    return list(answer_rows(graded.items, chosen)) if graded is not None else []


def _show(detail: TrialDetail) -> None:
    from hpo.cli.detail import (
        evaluation_table,
        failure_lines,
        head_lines,
        result_lines,
        result_tables,
    )
    from hpo.cli.values import Printer

    printer = Printer()
    printer.lines(head_lines(detail))
    if detail.evaluations:
        printer.table(evaluation_table(detail, printer.console))
    printer.lines(failure_lines(detail))
    if detail.shown is None:
        return
    result = detail.shown.record.result or {}
    printer.lines(["", f"{_shown_name(detail)}:", *result_lines(result)])
    for table in result_tables(result, printer.console):
        printer.table(table)
    if result.get("outcomes"):
        printer.lines(["", f"graded answers: --answers {SHOWN}, --category, --item or --save FILE"])


def _show_answers(
    detail: TrialDetail, graded: GradedAnswers, chosen: list[StoredAnswers], most: int
) -> None:
    from hpo.cli.graded import full_lines
    from hpo.cli.values import Printer

    printer = Printer()
    printer.lines([f"study {detail.study}, {_shown_name(detail)}", ""])
    for answers in chosen[:most]:
        printer.lines(full_lines(answers, graded.items[answers.item]))
    left = len(chosen) - most
    if left > 0:
        printer.lines([f"{left} more items; show them with --answers {len(chosen)}"])


def _shown_name(detail: TrialDetail) -> str:
    """The evaluation that is looked at, in words."""
    assert detail.shown is not None
    return detail.shown.name + (" on the test set" if detail.shown.record.test else "")
