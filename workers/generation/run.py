"""From the file of `hpo data generate` to its output folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from hpo.spec.generate import GenerateSpec
from hpo.spec.identity import fingerprint
from workers.generation.folder import REPORT, OutputFolder, open_folder
from workers.generation.ledger import Ledger
from workers.generation.model import LocalModel, find_model
from workers.generation.plan import Plan, read_plan
from workers.generation.records import human_record
from workers.generation.report import first_lines, report_of

Note = Callable[[str], None]
HUMANS_PER_WRITE = 1000
VERSION = 2
"""Of what is written for the same settings, ids and prompts' tokens included."""


def generate(spec: GenerateSpec, device: str, note: Note) -> dict[str, Any]:
    """Write what is missing in the output folder; the report over all of it.

    `device` is `cpu`, `cuda` or `cuda:N`, `note` shows a line to a person.
    Raises InputError and OutputError for what a person can mend.
    """
    with open_folder(Path(spec.output)) as folder:
        model = find_model(spec.model)
        contents = {source.path: fingerprint(source.path) for source in spec.prompts}
        plan = read_plan(spec)
        folder.claim(settings_of(spec, model, contents))
        for line in first_lines(plan.rows.dropped, REPORT):
            note(f"dropped: {line}")
        ledger = Ledger(spec, plan.prompts)
        _take_up(spec, plan, folder, ledger, contents, note)
        if any(ledger.waiting()):
            _write(spec, model, folder, ledger, device, note)
        report = report_of(ledger.counts, ledger.given_up(), plan.rows)
        folder.write_report(report)
        return report


def settings_of(
    spec: GenerateSpec, model: LocalModel, contents: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides what is written; a folder holds responses of one such tree.

    Inputs count by their content, not by where they lie.
    """
    apart = {"output", "on_error", "engine", "model", "prompts"}
    content = spec.model_dump(mode="json", exclude=apart)
    return {
        "version": VERSION,
        "model": {"content": model.content, "dtype": spec.model.dtype},
        "prompts": {
            str(index): source.model_dump(mode="json", exclude={"path"})
            | {"content": contents[source.path]}
            for index, source in enumerate(spec.prompts)
        },
        "engine": {"max_model_len": spec.engine.max_model_len},
        **content,
    }


def _take_up(
    spec: GenerateSpec,
    plan: Plan,
    folder: OutputFolder,
    ledger: Ledger,
    contents: Mapping[str, str],
    note: Note,
) -> None:
    """Remember what is there, and add the human responses that are not."""
    written = folder.load()
    if written.cut:
        note(f"{written.cut} bytes of a line that was never finished were cut off")
    ledger.take_up(written)
    if written.accepted or written.refused:
        note(
            f"going on: {len(written.accepted)} accepted and {len(written.refused)} refused before"
        )
    for response in plan.humans:
        ledger.keep_human(response.prompt.level)
    missing = (response for response in plan.humans if response.id not in written.human)
    while block := list(islice(missing, HUMANS_PER_WRITE)):
        folder.responses.append(
            [human_record(spec, response, contents[response.prompt.file]) for response in block]
        )


def _write(
    spec: GenerateSpec,
    model: LocalModel,
    folder: OutputFolder,
    ledger: Ledger,
    device: str,
    note: Note,
) -> None:
    # Not imported where nothing is left to do: it takes seconds.
    from workers.evaluation.engines.environment import prepare_environment

    prepare_environment(device, str(model.folder))
    from workers.generation.writing import Writing

    Writing.of(spec, model, folder, ledger, note).run(device)
