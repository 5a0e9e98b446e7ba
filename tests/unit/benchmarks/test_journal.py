from __future__ import annotations

import pytest

from benchmarks.journal import entries, switches, total_steps

LOG = """\
2026-01-01 10:00:00,000 INFO workers.trial.worker: trial 0, attempt 1: {'learning_rate': 0.1}
2026-01-01 10:00:00,020 INFO workers.trial.attempt: trial 0 took its first step (7 ms)
2026-01-01 10:00:09,900 INFO workers.trial.attempt: trial 0 is decided after batch 43
2026-01-01 10:00:09,940 INFO workers.trial.worker: trial 0 pruned: loss 3 (40 ms to close)
2026-01-01 10:00:10,150 INFO workers.trial.attempt: trial 1 took its first step (6 ms)
2026-01-01 10:00:11,000 INFO workers.trial.worker: trial 1 diverged: loss is nan (40 ms to close)
2026-01-01 10:00:12,000 INFO workers.trial.attempt: trial 2 took its first step (5 ms)
2026-01-01 10:00:13,000 INFO workers.trial.attempt: trial 2 is decided after batch 7
"""


def test_a_switch_lasts_from_a_verdict_to_the_next_first_step() -> None:
    (switch,) = switches(entries(LOG.splitlines()))
    assert switch.seconds == pytest.approx(0.25)
    assert switch.first_step == pytest.approx(0.006)


def test_steps_are_those_of_trials_with_a_verdict() -> None:
    assert total_steps(entries(LOG.splitlines())) == 50
