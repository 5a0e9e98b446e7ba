"""Creates a study in the database, or recognises it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpo.search.study import StudySearch
from hpo.spec.errors import StudyError
from hpo.spec.identity import differences, frozen, identity, input_paths
from hpo.spec.study import StudySpec
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.studies import Studies, StudyRecord


def register(
    database: Database, spec: StudySpec, home: Path, data: dict[str, Any] | None = None
) -> tuple[StudyRecord, bool]:
    """The study's record, and whether it was created now.

    `data` tells what became of its data, where that was prepared.

    A study of that name with the same identity is taken up again with the
    budget, trackers and devices of `spec`. Raises StudyError when the name
    belongs to another study: when its search space or any other frozen field
    differs, or when Optuna holds trials of that name that are not ours.
    """
    studies = Studies(database)
    known = studies.get(spec.name)
    mine = identity(spec)
    if known is not None:
        _same(known, mine, spec)
        EvaluationQueue(database, known.id, seconds=60).retry_tests()
        studies.update_spec(known.id, spec.model_dump(mode="json"))
        _note_data(database, known, data)
        _ask_for_base(database, known.id)
        return _found(studies, spec.name), False
    # The record comes before the first trial: look for it after the trials.
    if StudySearch.has_trials(database.optuna_storage(), spec.name) and not studies.get(spec.name):
        raise StudyError(
            f"the database holds an Optuna study {spec.name!r} that hpo did not make; "
            "give the file another name"
        )
    study_id = StudySearch.create(database.optuna_storage(), spec)
    root = home / "checkpoints" / f"{spec.name}-{study_id}"
    try:
        studies.insert(
            id=study_id,
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            identity=mine,
            checkpoints=str(root),
        )
    except StudyError:
        # Another process was faster; its study is compared like any other.
        _same(_found(studies, spec.name), mine, spec)
        return _found(studies, spec.name), False
    _note_data(database, _found(studies, spec.name), data)
    _ask_for_base(database, study_id)
    return _found(studies, spec.name), True


def find(database: Database, name: str) -> StudyRecord:
    """The record of an existing study.

    Raises StudyError, naming the studies there are, when it is missing.
    """
    record = Studies(database).get(name)
    if record is None:
        names = [study.name for study in Studies(database).list()]
        raise StudyError(
            f"given the study {name!r}, which is not in this database; "
            f"allowed: {', '.join(names) or 'none yet, create one with: hpo study create FILE'}"
        )
    return record


def _note_data(database: Database, record: StudyRecord, data: dict[str, Any] | None) -> None:
    """Store what became of the data, once.

    Raises StudyError when the study was begun with other data.
    """
    if data is None:
        return
    known = Studies(database).note_data(record.id, data)
    if known["hash"] != data["hash"]:
        raise StudyError(
            f"the study {record.name!r} was begun with other data ({known['hash']}, "
            f"now {data['hash']}): another file, tokenizer or version of the libraries; "
            "give the file another name"
        )


def _ask_for_base(database: Database, study_id: int) -> None:
    """Have the base model scored, if it was not or its scoring failed."""
    EvaluationQueue(database, study_id, seconds=60).put_base()


def _found(studies: Studies, name: str) -> StudyRecord:
    record = studies.get(name)
    if record is None:
        raise StudyError(f"the study {name!r} was deleted meanwhile; run the command again")
    return record


def as_written_now(known: StudyRecord) -> dict[str, Any]:
    """A study's identity with the fields that were added since, at their defaults.

    The inputs keep the hashes of then. Raises StudyError for a study that is
    not understood any more.
    """
    try:
        spec = StudySpec.model_validate(known.spec)
    except ValidationError as error:
        raise StudyError(
            f"the study {known.name!r} is of another version and not understood any more "
            f"({error.errors()[0]['msg']}); remove it with: hpo study delete {known.name}"
        ) from error
    now = frozen(spec)
    hashes = dict(input_paths(known.identity))
    for place, holder in input_paths(now):
        if place in hashes:
            holder["path"] = hashes[place]["path"]
    return now


def _same(known: StudyRecord, mine: dict[str, object], spec: StudySpec) -> None:
    changed = differences(as_written_now(known), mine)
    if changed:
        searched = any(line.startswith("training") for line in changed)
        what = "another search space or training" if searched else "other settings"
        raise StudyError(
            f"the study {spec.name!r} exists with {what} ({'; '.join(changed)}); give the file "
            f"another name, or remove the old study with: hpo study delete {spec.name}"
        )
