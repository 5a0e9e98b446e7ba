"""With one trial worker nothing that is decided depends on when results arrive."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from worker_lab import Lab, ScriptedEvaluator, story

from storage.database import Database
from storage.records import EvaluationRequest

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

Script = Callable[[Lab, ScriptedEvaluator], None]
QUIET_SECONDS = 1.0


def _until_over(lab: Lab, step: Callable[[], None], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while lab.children[-1].poll() is None:
        assert time.monotonic() < deadline, lab.log()
        step()
    assert lab.children[-1].returncode == 0, lab.log()


def promptly(lab: Lab, evaluator: ScriptedEvaluator) -> None:
    def step() -> None:
        request = evaluator.claim()
        if request is None:
            evaluator.session.listener.wait(0.2)
        else:
            evaluator.answer(request)

    _until_over(lab, step)


def late(lab: Lab, evaluator: ScriptedEvaluator) -> None:
    """Training has always gone as far as it may before a result comes."""

    def step() -> None:
        request = evaluator.claim()
        if request is not None:
            time.sleep(0.4)
            evaluator.answer(request)

    _until_over(lab, step)


def out_of_order(lab: Lab, evaluator: ScriptedEvaluator) -> None:
    """Whatever is open at a time is answered from the last to the first."""
    reversed_pairs = 0

    def step() -> None:
        nonlocal reversed_pairs
        claimed = _claim_all(evaluator)
        reversed_pairs += len(claimed) > 1
        for request in reversed(claimed):
            evaluator.answer(request)

    _until_over(lab, step)
    assert reversed_pairs > 0


def _claim_all(evaluator: ScriptedEvaluator) -> list[EvaluationRequest]:
    claimed: list[EvaluationRequest] = []
    quiet_since = time.monotonic()
    while len(claimed) < 2 and time.monotonic() - quiet_since < QUIET_SECONDS:
        request = evaluator.claim()
        if request is not None:
            claimed.append(request)
            quiet_since = time.monotonic()
        else:
            time.sleep(0.05)
    return claimed


def twice(lab: Lab, evaluator: ScriptedEvaluator) -> None:
    def step() -> None:
        request = evaluator.claim()
        if request is not None:
            evaluator.answer(request)
            evaluator.answer(request)

    _until_over(lab, step)


def killed_before_the_verdict(lab: Lab, evaluator: ScriptedEvaluator) -> None:
    """The trial worker dies between a result and its verdict, three times."""
    kills = 0

    def step() -> None:
        nonlocal kills
        request = evaluator.claim()
        if request is None:
            time.sleep(0.05)
        elif request.rung is not None and kills < 3:
            kills += 1
            trainer = lab.children[-1]
            trainer.send_signal(signal.SIGSTOP)
            evaluator.answer(request)
            trainer.kill()
            trainer.wait()
            _wait_until_absent(evaluator)
            evaluator.free_dead_workers()
            lab.start()
        else:
            evaluator.answer(request)

    _until_over(lab, step, seconds=180)
    assert kills == 3


def _wait_until_absent(evaluator: ScriptedEvaluator) -> None:
    study_id = evaluator.session.record.id
    deadline = time.monotonic() + 10
    while any(w.kind == "trial" for w in evaluator.session.workers.present(study_id)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_late_disordered_double_results_and_a_killed_trial_worker_change_nothing(
    make_lab: Callable[..., Lab], database: Database
) -> None:
    stories: dict[str, dict[int, dict[str, Any]]] = {}
    for script in (promptly, late, out_of_order, twice, killed_before_the_verdict):
        lab = make_lab(name=script.__name__)
        lab.start()
        with lab.evaluator() as evaluator:
            script(lab, evaluator)
        stories[script.__name__] = story(database, lab.spec)

    plain = stories["promptly"]
    states = [trial["state"] for trial in plain.values()]
    assert len(plain) == 7
    assert "PRUNED" in states
    assert "COMPLETE" in states
    for trial in plain.values():
        rungs = [verdict["rung"] for verdict in trial["verdicts"]]
        assert sorted(trial["reported"]) == rungs, "no value beyond the trial's end"
        keeps = [verdict["keep"] for verdict in trial["verdicts"]]
        assert all(keeps[:-1]), "nothing after a prune"
    for name, told in stories.items():
        for number, trial in plain.items():
            assert told[number] == trial, f"{name}, trial {number}"
        assert len(told) == len(plain)
