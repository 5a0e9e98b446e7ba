"""SIGKILL at any moment of an evaluation loses nothing, and every value is reported once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from gates import MOMENTS, Gates, first_of
from warm import WarmProcess
from worker_lab import LEASE_SECONDS, Lab

from hpo.search.study import StudySearch
from storage.answers import AnswerStore
from storage.checkpoints import CheckpointStore
from storage.database import Database
from storage.queue import EvaluationQueue
from storage.records import EvaluationRecord
from storage.studies import Studies, StudyRecord
from storage.trials import TrialLease, TrialLeases
from storage.workers import Workers

pytestmark = [pytest.mark.engine, pytest.mark.postgres, pytest.mark.slow]

RUNG = 24
TOGETHER = 2
"""Workers at a time: one is killed while another comes up."""
GRADER = "def grade(answer, reference, fields):\n    return answer.strip() == reference.strip()\n"
IN_ORDER = [moment for moment in MOMENTS if moment != "storing the answers"]


@dataclass
class Siege:
    """A study whose checkpoints are there, and evaluation workers that are killed over them."""

    lab: Lab
    database: Database
    record: StudyRecord
    gates: Gates
    search: StudySearch
    queue: EvaluationQueue
    leases: TrialLeases
    answers: AnswerStore
    store: CheckpointStore
    chance: random.Random
    workers: list[WarmProcess] = field(default_factory=list)
    killed: int = 0

    def ask(self, trials: int) -> list[TrialLease]:
        """So many trials with checkpoints to score; the next ones have the same weights."""
        return [self._ask(weights, steps=1 + (weights == 0)) for weights in range(trials)]

    def start(self) -> None:
        self.workers.append(self.lab.start("evaluation", log=f"evaluation-{len(self.workers)}.log"))

    def kill_at(self, moment: str, delay: float) -> None:
        """Kill the worker whose session stands at a gate, so long after the gate opened."""
        victim = first_of(self.gates, moment, {worker.pid for worker in self._living()})
        assert victim is not None, f"nobody came to {moment!r}: {self.state()}"
        if delay:
            self.gates.open(moment)
            time.sleep(delay)
        worker = next(worker for worker in self.workers if worker.pid == victim)
        assert worker.poll() is None, self.logs()
        helpers = psutil.Process(victim).children(recursive=True)
        worker.kill()
        worker.wait()
        self.killed += 1
        if not delay:
            self.gates.open(moment)
        assert not psutil.wait_procs(helpers, timeout=10)[1], "graders outlive their worker"

    def free_dead_workers(self) -> None:
        """What the launcher does when it sees a worker die."""
        deadline = time.monotonic() + LEASE_SECONDS / 2
        # The server notices a death only when a session is past its gate.
        while self._dead_sessions() - self.gates.waiting():
            assert time.monotonic() < deadline, "sessions outlive their workers"
            time.sleep(0.01)
        Workers(self.database).free_absent(self.record.id)

    def finish(self) -> None:
        """Have everything answered that was asked, then end the workers."""
        wait_until(self, lambda: not {"open", "claimed"} & self.queue.counts().keys())
        living = self._living()
        for worker in living:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(30) for worker in living] == [0] * len(living), self.logs()

    def phases(self) -> dict[int, str]:
        """What the workers are doing, by process id."""
        present = Workers(self.database).present(self.record.id)
        return {row.pid: row.phase for row in present}

    def state(self) -> str:
        """Who is where, for whoever reads that the test failed."""
        closed = {moment: self.gates.waiting(moment) for moment in MOMENTS}
        return f"phases {self.phases()}, at the gates {closed}\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(
            f"{file.name}:\n{file.read_text()[-3000:]}"
            for file in sorted(self.lab.home.glob("evaluation-*.log"))
        )

    def _ask(self, weights: int, *, steps: int) -> TrialLease:
        lease = self.leases.acquire(
            "trainer", budget=1000, orphans=self.search.running, ask=self.search.ask
        )
        assert lease is not None
        for step in range(1, steps + 1):
            address = f"trial-{lease.number}/step-{step}"
            examples = RUNG * 3 ** (step - 1)
            fill = _perturbed(Path(self.lab.spec.model.path), 100 * step + weights)
            self.store.write(address, fill, kind="full", step=step, examples=examples)
            self.queue.put(lease, step=step, examples=examples, rung=examples, checkpoint=address)
        return lease

    def _living(self) -> list[WarmProcess]:
        return [worker for worker in self.workers if worker.poll() is None]

    def _dead_sessions(self) -> set[int]:
        """Process ids of the killed whose sessions the server still has."""
        return self.phases().keys() - {worker.pid for worker in self._living()}


def _perturbed(base: Path, seed: int) -> Callable[[Path], None]:
    """Writes the base model's weights with noise on them."""

    def fill(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(base / "model.safetensors")
        for tensor in tensors.values():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return fill


@pytest.fixture
def siege(
    make_lab: Callable[..., Lab],
    database: Database,
    inputs: Path,
    tmp_path: Path,
    record_property: pytest.RecordProperty,
) -> Iterator[Siege]:
    grader = tmp_path / "grader.py"
    grader.write_text(GRADER)
    # A grader of one's own is asked in processes of their own.
    task = f"{{type: python, path: {grader}}}"
    answered = f"path: {inputs}/data/valid.jsonl, samples: 24, max_new_tokens: 8, task: {task}"
    lab = make_lab(generation=f"generation: {{{answered}}}", trials=1000)
    record = Studies(database).get(lab.spec.name)
    assert record is not None
    seed = random.randrange(2**32)
    record_property("seed", seed)
    with Gates.build(database) as gates:
        yield Siege(
            lab,
            database,
            record,
            gates,
            StudySearch(database.optuna_storage(), lab.spec),
            EvaluationQueue(database, record.id, seconds=LEASE_SECONDS),
            TrialLeases(database, record.id, seconds=600),
            AnswerStore(database, record.id),
            CheckpointStore(Path(record.checkpoints)),
            random.Random(seed),
        )


def test_a_worker_killed_at_any_moment_loses_nothing_and_reports_once(siege: Siege) -> None:
    kill_at_all(siege, IN_ORDER, trials=3 * len(IN_ORDER))


@pytest.mark.exhaustive
@pytest.mark.parametrize("repetition", range(5))
def test_a_worker_killed_at_random_moments_loses_nothing_and_reports_once(
    siege: Siege, repetition: int
) -> None:
    kill_at_all(siege, siege.chance.choices([*MOMENTS], k=12), trials=40)


def kill_at_all(siege: Siege, moments: list[str], *, trials: int) -> None:
    """Kill a worker at each of the moments, then compare with workers that are left alone.

    Between two kills the workers answer some of the trials' requests.
    """
    for _ in range(TOGETHER):
        siege.start()
    # The base model always goes first, and three lost workers would be its end.
    wait_until(siege, lambda: siege.queue.counts() == {"done": 1})
    siege.gates.close(moments[0])
    interrupted = siege.ask(trials)
    for number, following in enumerate([*moments[1:], None], start=1):
        # At the beginning of the moment, or some way into it and beyond.
        siege.kill_at(
            moments[number - 1], siege.chance.choice((0.0, siege.chance.uniform(0, 0.05)))
        )
        if following is not None:
            siege.gates.close(following)
        if number + TOGETHER <= len(moments) + 1:
            siege.start()
        siege.free_dead_workers()
        assert_nothing_half_done(siege)
    undisturbed = siege.ask(trials)
    siege.finish()
    assert_nothing_half_done(siege)
    assert_reported_once(siege)
    assert siege.killed == len(moments)
    for before, after in zip(interrupted, undisturbed, strict=True):
        assert told(siege, before) == told(siege, after)


def wait_until(siege: Siege, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, siege.logs()
        siege.free_dead_workers()
        time.sleep(0.05)


def assert_nothing_half_done(siege: Siege) -> None:
    """A result has its answers and answers their result, whatever has been killed."""
    half = """
        SELECT count(*) FROM hpo.evaluation FULL JOIN hpo.evaluation_answers ON id = evaluation_id
        WHERE (state = 'done') IS DISTINCT FROM (content IS NOT NULL)
            OR (state = 'done') <> (result IS NOT NULL)
    """
    with siege.database.engine.connect() as connection:
        assert connection.scalar(sa.text(half)) == 0


def assert_reported_once(siege: Siege) -> None:
    """Each request has one result, each rung that had its turn one value in the study."""
    written = siege.gates.reports()
    answers = siege.gates.answers()
    base = siege.queue.base()
    assert base is not None
    records = [base]
    for row in siege.leases.rows():
        records += siege.queue.for_trial(row.number)
        values = siege.search.fresh(row.trial_id).intermediate_values
        first = siege.queue.for_trial(row.number)[0]
        assert first.result is not None
        assert values == {RUNG: first.result["loss"]}
        # A kill between the study's write and ours has it written again, the same.
        assert set(written[row.trial_id, RUNG]) == {first.result["loss"]}
    assert [record.state for record in records] == ["done"] * len(records), siege.logs()
    assert [record.reported for record in records] == [_has_its_turn(one) for one in records]
    assert answers == {(record.trial_id, record.step): 1 for record in records}


def _has_its_turn(record: EvaluationRecord) -> bool:
    """A trial's second rung waits for the verdict at the first, which nobody gives here."""
    return record.rung == RUNG


def told(siege: Siege, lease: TrialLease) -> list[tuple[dict[str, Any], bytes | None]]:
    """A trial's results but for the time they took, and its graded answers."""
    found = []
    for record in siege.queue.for_trial(lease.number):
        assert record.result is not None
        result = {name: value for name, value in record.result.items() if name != "timings"}
        found.append((result, siege.answers.answers(record.id)))
    return found
