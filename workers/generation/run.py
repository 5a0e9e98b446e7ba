"""From the file of `hpo data generate` to its output folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.spec.errors import InputError
from hpo.spec.generate import GenerateSpec
from hpo.spec.identity import fingerprint
from workers.data.example import UnusableRow
from workers.data.tokenizer import load_tokenizer
from workers.generation.chat import PromptEncoder
from workers.generation.checks import Candidate, ResponseChecks
from workers.generation.folder import OutputFolder, Written, open_folder
from workers.generation.model import LocalModel, context_length, find_model
from workers.generation.plan import Plan, read_plan
from workers.generation.prompts import Prompt
from workers.generation.records import (
    GENERATED,
    HUMAN,
    TOO_LONG,
    Attempt,
    Record,
    Recorder,
    said,
)
from workers.generation.report import Counts, report_of

if TYPE_CHECKING:
    from workers.generation.engine import Response, WritingEngine

Note = Callable[[str], None]
HUMANS_PER_WRITE = 1000


def generate(spec: GenerateSpec, device: str, note: Note) -> dict[str, Any]:
    """Write what is missing in the output folder; the report over all of it.

    `device` is `cpu`, `cuda` or `cuda:N`, `note` shows a line to a person.
    Raises SpecError's relatives InputError and OutputError for whatever a
    person can mend.
    """
    with open_folder(Path(spec.output)) as folder:
        model = find_model(spec.model)
        contents = {source.path: fingerprint(source.path) for source in spec.prompts}
        folder.claim(settings_of(spec, model, contents))
        plan = read_plan(spec)
        for line in plan.rows.dropped:
            note(f"dropped: {line}")
        written = folder.load()
        if written.cut:
            note(f"{written.cut} bytes of a line that was never finished were cut off")
        run = Run(spec, model, folder, plan, contents, note)
        run.take_up(written)
        del written
        run.keep_humans()
        run.write(device)
        report = report_of(run.counts, plan.rows, finished=True)
        folder.write_report(report)
        return report


def settings_of(
    spec: GenerateSpec, model: LocalModel, contents: dict[str, str]
) -> dict[str, Any]:
    """All that decides what is written; a folder holds responses of one such tree.

    Inputs count by their content, not by where they lie.
    """
    content = spec.model_dump(mode="json", exclude={"output", "engine", "model", "prompts"})
    return {
        "version": 1,
        "model": {"content": model.content, "dtype": spec.model.dtype},
        "prompts": {
            str(index): source.model_dump(mode="json", exclude={"path"})
            | {"content": contents[source.path]}
            for index, source in enumerate(spec.prompts)
        },
        **content,
    }


@dataclass
class _Pending:
    """A prompt that is tried next."""

    prompt: Prompt
    attempt: int


class Run:
    """One run over a folder: what is done already is taken up, the rest is written.

    Attempts are decided in one order, whatever was interrupted: every
    prompt's first attempt in the order of the plan, then the second ones of
    those that were refused, and so on. Each response depends on its prompt
    and its seed, each verdict on what was accepted before it.
    """

    def __init__(
        self,
        spec: GenerateSpec,
        model: LocalModel,
        folder: OutputFolder,
        plan: Plan,
        contents: dict[str, str],
        note: Note,
    ) -> None:
        self.counts = Counts(tuple(spec.levels))
        self._spec, self._model, self._folder, self._plan = spec, model, folder, plan
        self._contents, self._note = contents, note
        self._checks = ResponseChecks(spec.checks)
        self._accepted: set[str] = set()
        self._refused: Counter[str] = Counter()
        self._hopeless: set[str] = set()
        self._human: set[str] = set()

    def take_up(self, written: Written) -> None:
        """Remember what the folder holds.

        Raises InputError for responses to prompts that the plan does not have.
        """
        prompts = {prompt.id: prompt for prompt in self._plan.prompts}
        for record in (*written.accepted, *written.refused):
            if record["id"] not in prompts:
                raise InputError(
                    f"{self._folder.path}: given the response {record['id']}, whose prompt is not "
                    "in the sources; allowed: the files as they were written"
                )
        for record in written.refused:
            self._count_refused(record)
        for record in written.accepted:
            self._count_accepted(record, prompts[record["id"]])
        self._human = written.human
        done = len(written.accepted) + len(written.refused)
        if done:
            self._note(f"going on: {len(written.accepted)} responses are there already")

    def keep_humans(self) -> None:
        """Write the data's own responses that are not there yet."""
        raise NotImplementedError
