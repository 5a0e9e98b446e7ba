"""Files that people find beside a study's trials on the dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from uuid import NAMESPACE_OID, uuid5

from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from hpo.search.study import StudySearch
from storage.studies import StudyRecord

FOLDER = "artifacts"
PREFIXES = ("artifacts:", "dashboard:artifacts:")
"""Begin the names of the attributes that tell of attached files."""


class ArtifactFolder(FileSystemArtifactStore):
    """Keeps the files of all studies of one state folder."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER
        super().__init__(self.folder)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a file, the first one's folder too; one that cannot be finished is not left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            super().write(artifact_id, content_body)
        except BaseException:
            # Nothing refers to it yet, so nobody would ever remove it.
            self.remove(artifact_id)
            raise

    def remove(self, artifact_id: str) -> None:
        """Remove a file; one that is not here does not keep its study from being deleted."""
        with suppress(ArtifactNotFound):
            super().remove(artifact_id)


@dataclass(frozen=True)
class AttachedFile:
    """A file as people find it."""

    name: str
    content: bytes
    mimetype: str


def home_of(record: StudyRecord) -> Path:
    """The state folder that a study's checkpoints are in, wherever this process runs."""
    return Path(record.checkpoints).parents[1]


def attach(search: StudySearch, trial_id: int, record: StudyRecord, file: AttachedFile) -> None:
    """Put a file beside a running trial, in the place of one of that name.

    Raises OSError, and optuna's UpdateFinishedTrialError when the trial has ended.
    """
    # The same for the same file: who attaches it again need not ask what is there.
    made = f"{record.checkpoints} {record.created_at.isoformat()} {trial_id} {file.name}"
    artifact_id = str(uuid5(NAMESPACE_OID, made))
    meta = ArtifactMeta(artifact_id, file.name, file.mimetype, None)
    search.study._storage.set_trial_system_attr(
        trial_id, PREFIXES[0] + artifact_id, json.dumps(asdict(meta))
    )
    ArtifactFolder(home_of(record)).write(artifact_id, BytesIO(file.content))


def remove_artifacts(storage: BaseStorage, name: str, home: Path) -> None:
    """Remove the files of a study and of its trials.

    Raises KeyError when Optuna's tables do not hold the study.
    """
    study_id = storage.get_study_id_from_name(name)
    attributes = [storage.get_study_system_attrs(study_id)]
    trials = storage.get_all_trials(study_id, deepcopy=False)
    attributes += [storage.get_trial_system_attrs(trial._trial_id) for trial in trials]
    folder = ArtifactFolder(home)
    for known in attributes:
        for one in _attached(known):
            folder.remove(one["artifact_id"])


def _attached(attributes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What Optuna noted of attached files; of one that a person deleted it is null.

    `optuna.artifacts.get_all_artifact_meta` fails on those.
    """
    for name, value in attributes.items():
        if name.startswith(PREFIXES):
            content = json.loads(value)
            if content is not None:
                yield content
