"""What is saved of a trial, what stays on disk, and what a resumed attempt makes of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import worker_lab
from in_process import run_here
from test_trial_worker import answer_all, checkpoints_of
from worker_lab import Lab, leases_of, queue_of, story

from hpo.search.study import StudySearch
from storage.checkpoints import CheckpointStore, Stored
from storage.database import Database
from storage.studies import Studies
from storage.trials import TrialLeases
from workers.trial.retention import GIB, DiskBudget, DiskBudgetExceeded

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SHORT: dict[str, Any] = {
    "max_examples": 96,
    "learning_rate": "{choices: [1.0e-3, 1.1e-3]}",
    "pruner": "{type: none}",
}
"""No trial is pruned."""
BUDGET = 0.005
"""GiB, in which a state and seven checkpoints have room."""


def best_in_the_middle(parameters: dict[str, Any], examples: int) -> float:
    return float(1 + parameters["optimizer.weight_decay"] + abs(examples - 48) / 1000)


def steps_by_trial(store: CheckpointStore) -> dict[str, list[int]]:
    """Steps of the checkpoints that are left, by trial's folder."""
    found: dict[str, list[int]] = {}
    for address in store.addresses():
        trial, _, name = address.split("/")
        assert name.startswith("step-"), "no training state of an ended trial is left"
        found.setdefault(trial, []).append(int(name.removeprefix("step-")))
    return found


@pytest.mark.parametrize(
    ("checkpoints", "winner", "loser"),
    [
        # Examples of the checkpoints that stay; those at 48 are the best of their trials.
        ("{keep_last: 2, total_limit: 2}", [48, 96], [72, 96]),
        ("{keep: all, total_limit: 3}", [48, 72, 96], [48, 72, 96]),
    ],
)
def test_what_is_kept_of_each_trial(
    make_lab: Callable[..., Lab],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: str,
    winner: list[int],
    loser: list[int],
) -> None:
    monkeypatch.setattr(worker_lab, "formula", best_in_the_middle)
    lab = make_lab(trials=2, every=24, checkpoints=checkpoints, **SHORT)
    run_here(lab)
    search = StudySearch(database.optuna_storage(), lab.spec)
    best = search.best_trial()
    assert best is not None
    left = steps_by_trial(checkpoints_of(database, lab))
    for number, trial in story(database, lab.spec).items():
        wanted = winner if number == best.number else loser
        size = trial["parameters"]["effective_batch_size"]
        assert left[f"trial-{number:05d}"] == [examples // size for examples in wanted]


@contextmanager
def recorded_states(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Steps whose training state is recorded, as it happens."""
    steps: list[int] = []
    save = TrialLeases.save_state

    def note(self: TrialLeases, lease: Any, address: str, step: int, **within: Any) -> None:
        save(self, lease, address, step, **within)
        steps.append(step)

    with monkeypatch.context() as patch:
        patch.setattr(TrialLeases, "save_state", note)
        yield steps


def test_a_state_that_is_older_than_answered_evaluations_finds_them_and_their_verdicts(
    make_lab: Callable[..., Lab], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_lab(name="whole", trials=1, every=32)
    run_here(whole)

    lab = make_lab(trials=1, every=32, checkpoints="{save_every: {examples: 80}}")
    torch_save = torch.save
    written = 0

    def full_disk(state: Any, file: Any) -> None:
        nonlocal written
        written += 1
        torch_save(state, file)
        if written == 2:
            raise OSError(28, "No space left on device")

    with recorded_states(monkeypatch) as steps, monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run_here(lab)
        answered = [record.step for record in queue_of(database, lab.spec).for_trial(0)]
        assert len(steps) == 1, "the second state failed"
        assert max(answered) > steps[0], "evaluations went on beyond the state"
        assert leases_of(database, lab.spec).attempts(0)[0].outcome == "interrupted"
        assert not [one for one in checkpoints_of(database, lab).stored() if one.draft]
        run_here(lab)
    sizes = [t["parameters"]["effective_batch_size"] for t in story(database, lab.spec).values()]
    assert all(step % (80 // max(sizes)) == 0 for step in steps)
    assert story(database, lab.spec) == story(database, whole.spec)
    records = queue_of(database, lab.spec).for_trial(0)
    assert {r.attempts for r in records if r.state == "done"} == {1}, "nothing was scored twice"


def test_a_disk_budget_is_kept_by_deleting_the_oldest_that_nothing_needs(
    make_lab: Callable[..., Lab], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_lab, "formula", best_in_the_middle)
    lab = make_lab(
        trials=2, every=16, checkpoints=f"{{keep: all, disk_budget_gib: {BUDGET}}}", **SHORT
    )
    sizes: list[int] = []
    draft = DiskBudget.draft

    def measured(self: DiskBudget, address: str, size: int) -> Any:
        begun = draft(self, address, size)
        sizes.append(sum(stored.bytes for stored in self.session.checkpoints.stored()))
        return begun

    monkeypatch.setattr(DiskBudget, "draft", measured)
    run_here(lab)
    assert 0.7 * BUDGET * GIB < max(sizes) <= BUDGET * GIB, "nothing went before it had to"
    search = StudySearch(database.optuna_storage(), lab.spec)
    store = checkpoints_of(database, lab)
    best = search.best_checkpoint()
    assert best is not None
    assert store.exists(best)
    assert 2 < len(store.addresses()) < 12


def test_a_budget_that_is_too_small_ends_the_run_and_a_larger_one_lets_it_go_on(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    lab = make_lab(trials=1, every=16, checkpoints="{disk_budget_gib: 0.001}")
    with pytest.raises(
        DiskBudgetExceeded, match=r"disk_budget_gib: given 0\.001, .*more than 0\.0"
    ):
        run_here(lab)
    assert leases_of(database, lab.spec).unfinished() == 1
    left = checkpoints_of(database, lab).stored()
    assert left, "the checkpoint fitted, the state did not"
    assert not any(stored.draft for stored in left)

    content = lab.spec.model_dump(mode="json")
    content["checkpoints"]["disk_budget_gib"] = 1.0
    record = Studies(database).get("lab")
    assert record is not None
    Studies(database).update_spec(record.id, content)
    run_here(lab)
    assert story(database, lab.spec)[0]["state"] == "COMPLETE"


def test_a_worker_that_is_killed_while_it_writes_a_state_leaves_a_whole_one(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    long = SHORT | {"max_examples": 600}
    whole = make_lab(name="whole", trials=1, **long)
    run_here(whole)

    lab = make_lab(trials=1, checkpoints="{save_every: {batches: 1}}", **long)
    store = checkpoints_of(database, lab)
    victim = lab.start()
    with lab.evaluator() as evaluator:
        deadline = time.monotonic() + 60
        while not _half_written(store):
            assert time.monotonic() < deadline, lab.log()
            victim.send_signal(signal.SIGCONT)
            while not _half_written(store):
                assert victim.poll() is None, lab.log()
            victim.send_signal(signal.SIGSTOP)
        victim.kill()
        victim.wait()
        with database.engine.connect() as connection:
            query = "SELECT state_address, state_step FROM hpo.trial WHERE state = 'running'"
            address, step = connection.exec_driver_sql(query).one()
        assert store.open(address).step == step
        evaluator.free_dead_workers()
        lab.start()
        answer_all(lab, evaluator)
    assert "starts anew" not in lab.log()
    assert story(database, lab.spec) == story(database, whole.spec)
    assert not [stored for stored in store.stored() if stored.draft]


def _half_written(store: CheckpointStore) -> list[Stored]:
    """States that are being written, after a first one was recorded."""
    found = store.stored()
    whole = [one for one in found if not one.draft and Path(one.address).name[:5] == "state"]
    drafts = [one for one in found if one.draft and ".state-" in one.address]
    return [one for one in drafts if whole and any(store.path(one.address).iterdir())]
