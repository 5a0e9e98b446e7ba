"""Leases live on progress, and through one long call at most."""

from __future__ import annotations

import time
from itertools import pairwise

from workers.renewal import Renewer


def test_progress_renews_at_most_four_times_per_period() -> None:
    renewed: list[float] = []
    looked: list[float] = []
    renewer = Renewer(
        lambda: renewed.append(time.monotonic()), 0.2, lambda: looked.append(time.monotonic())
    )
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        renewer()
    assert len(renewed) == len(looked) > 0
    gaps = [later - earlier for earlier, later in pairwise(renewed)]
    assert all(gap >= 0.05 for gap in gaps)


def test_a_long_call_is_kept_alive_and_a_stuck_one_is_not() -> None:
    renewed: list[float] = []
    renewer = Renewer(lambda: renewed.append(time.monotonic()), 0.04)
    with renewer.through():
        time.sleep(0.3)
    assert len(renewed) > 2
    count = len(renewed)
    time.sleep(0.1)
    assert len(renewed) == count, "nothing beats after the call"

    renewed.clear()
    with renewer.through(longest=0.05):
        time.sleep(0.4)
    assert not renewed or renewed[-1] < time.monotonic() - 0.2


def test_what_goes_wrong_in_the_thread_leaves_the_call_alone() -> None:
    def fail() -> None:
        raise RuntimeError("the database is away")

    with Renewer(fail, 0.04).through():
        time.sleep(0.1)
