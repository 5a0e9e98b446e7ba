"""Our way: checkpoints scored by `hpo worker evaluation` on an embedded Postgres.

`python -m benchmarks.evaluation.served FOLDER RESULT`, with a scene in FOLDER.
All requests wait when the worker begins, so that from one result to the next
is one evaluation, claim and commit included.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from benchmarks.evaluation.parts import Evaluated, Parts
from benchmarks.evaluation.scenes import EXAMPLES, checkpoints_folder, read_data, read_spec
from hpo.launch.home import home
from hpo.search.graded import unpack_answers
from hpo.search.register import register
from hpo.search.study import StudySearch
from hpo.spec.study import StudySpec
from storage.answers import AnswerStore
from storage.checkpoints import CheckpointStore
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.queue import EvaluationQueue
from storage.records import EvaluationRecord
from storage.studies import StudyRecord
from storage.trials import TrialLeases

REPORTED = re.compile(
    r"workers\.evaluation\.worker: trial (?P<number>\d+), batch \d+: .*"
    r"\((?P<milliseconds>\d+) ms to report\)"
)
MEMORY = re.compile(r"workers\.evaluation\.worker: memory of the evaluation device: (.*)")
FOREVER = 1e6
"""Seconds of a lease that nobody renews."""


def serve(folder: Path) -> Evaluated:
    """Have every checkpoint of the scene scored."""
    spec = read_spec(folder)
    read_data(spec)
    with (
        EmbeddedPostgres(home() / "postgres") as server,
        Database.open(server.url) as database,
    ):
        record, _ = register(database, spec, home())
        shutil.copytree(checkpoints_folder(folder), record.checkpoints, dirs_exist_ok=True)
        ask(database, spec, record)
        queue = EvaluationQueue(database, record.id, seconds=FOREVER)
        log = _work(spec.name, queue, folder / "worker.log")
        return _read(queue, AnswerStore(database, record.id), log)


def ask(database: Database, spec: StudySpec, record: StudyRecord) -> None:
    """Put a request for each checkpoint, each of a trial of its own at the first rung."""
    search = StudySearch(database.optuna_storage(), spec)
    leases = TrialLeases(database, record.id, seconds=FOREVER)
    queue = EvaluationQueue(database, record.id, seconds=FOREVER)
    store = CheckpointStore(Path(record.checkpoints))
    checkpoints = [(store.open(address), address) for address in store.addresses()]
    for checkpoint, address in sorted(checkpoints, key=lambda pair: pair[0].step):
        lease = leases.acquire("benchmark", budget=spec.budget.trials, orphans=list, ask=search.ask)
        assert lease is not None
        queue.put(lease, step=checkpoint.step, examples=EXAMPLES, rung=EXAMPLES, checkpoint=address)


def _work(study: str, queue: EvaluationQueue, log: Path) -> str:
    """Run a worker until everything is answered; what it logged."""
    command = [sys.executable, "-m", "hpo", "worker", "evaluation", "--study", study]
    with log.open("wb") as out:
        worker = subprocess.Popen([*command, "--device", "cpu"], stdout=out, stderr=out)
        while worker.poll() is None and {"open", "claimed"} & queue.counts().keys():
            time.sleep(0.5)
        worker.send_signal(signal.SIGTERM)
        worker.wait()
    told = log.read_text()
    if {"open", "claimed", "failed"} & queue.counts().keys():
        sys.exit(f"the worker did not answer everything:\n{told[-3000:]}")
    return told


def _read(queue: EvaluationQueue, answers: AnswerStore, log: str) -> Evaluated:
    found = REPORTED.finditer(log)
    reports = {int(each["number"]): int(each["milliseconds"]) / 1000 for each in found}
    memory = MEMORY.search(log)
    records = [record for record in queue.recent(1000) if record.finished_at is not None]
    records.sort(key=lambda record: str(record.finished_at))
    return Evaluated(
        parts=[_parts(before, record, reports, answers) for before, record in pairwise(records)],
        memory="" if memory is None else memory[1],
        load_average=os.getloadavg()[0],
    )


def _parts(
    before: EvaluationRecord,
    record: EvaluationRecord,
    reports: Mapping[int, float],
    answers: AnswerStore,
) -> Parts:
    assert before.finished_at is not None
    assert record.finished_at is not None
    assert record.number is not None
    result = record.result or {}
    timings = result["timings"]
    stored = unpack_answers(answers.answers(record.id) or b"")
    return Parts(
        address=str(record.checkpoint),
        loss=float(result["loss"]),
        answers=[item.samples[0].text for item in stored],
        accuracy=float(result["accuracy"]),
        seconds=(record.finished_at - before.finished_at).total_seconds(),
        load=timings["load"],
        generate=timings["generate"],
        grade=timings["grade"],
        switch=timings["switch"],
        forward=timings["loss"],
        report=reports[record.number],
    )


def main() -> None:
    """Write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    given = parser.parse_args()
    given.result.write_text(serve(given.folder).model_dump_json())


if __name__ == "__main__":
    main()
