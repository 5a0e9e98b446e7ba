"""What a study's note on the dashboard says of the base model."""

from __future__ import annotations

from collections.abc import Mapping

from optuna import Study

HEADING = "## Base model"
OURS = "## Data"
"""Begins the note that a study is given when it is created."""


def note_base(study: Study, scores: Mapping[str, object]) -> None:
    """Add the base model's scores to the study's note, once; a person's own note stays."""
    from optuna_dashboard import get_note, save_note

    note = get_note(study)
    if HEADING not in note and (not note or note.startswith(OURS)):
        save_note(study, "\n\n".join(filter(None, (note, _section(scores)))))


def _section(scores: Mapping[str, object]) -> str:
    columns = {"loss": scores.get("loss"), "perplexity": scores.get("perplexity")}
    if scores.get("accuracy") is not None:
        columns["accuracy"] = scores["accuracy"]
        columns["95 % interval"] = (
            f"{_number(scores.get('accuracy_low'))} to {_number(scores.get('accuracy_high'))}"
        )
    rows = (columns, ["---"] * len(columns), map(_number, columns.values()))
    return "\n".join([HEADING, "", *(f"| {' | '.join(row)} |" for row in rows)])


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
