"""One job at a time beside the training, and what becomes of its errors."""

from __future__ import annotations

import io
import threading

import pytest
import torch

from workers.trial.background import Abandoned, Background


def test_jobs_follow_each_other() -> None:
    done: list[int] = []
    with Background() as background:
        for number in range(5):
            background.begin(lambda number=number: done.append(number))  # type: ignore[misc]
        background.wait()
    assert done == [0, 1, 2, 3, 4]


def test_an_error_is_raised_once_where_it_is_asked_for() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with Background() as background:
        background.begin(fail)
        with pytest.raises(OSError, match="No space left"):
            background.begin(lambda: None)
        background.check()
        background.wait()


def test_leaving_abandons_the_job_and_waits_for_it() -> None:
    begun, left = threading.Event(), threading.Event()
    ended: list[type[BaseException] | None] = []

    def save() -> None:
        begun.set()
        left.wait(10)
        try:
            torch.save({"weights": torch.zeros(1000)}, background.stream(io.BytesIO()))
            ended.append(None)
        except Abandoned as error:
            ended.append(type(error))
            raise

    with Background() as background:
        background.begin(save)
        assert begun.wait(10)
        background.check()
        threading.Timer(0.05, left.set).start()
    assert ended == [Abandoned]


def test_what_fails_too_late_to_be_raised_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with Background() as background:
        background.begin(fail)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "OSError: [Errno 28] No space left on device" in caplog.text


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_what_fails_because_it_was_abandoned_is_not(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    begun, left = threading.Event(), threading.Event()

    def save() -> None:
        begun.set()
        left.wait(10)
        try:
            torch.save(torch.zeros(size), background.stream(io.BytesIO()))
        except RuntimeError as error:
            raise OSError("not written") from error

    with Background() as background:
        background.begin(save)
        assert begun.wait(10)
        threading.Timer(0.05, left.set).start()
    assert caplog.records == []


def test_a_stream_takes_what_torch_saves() -> None:
    file = io.BytesIO()
    with Background() as background:
        weights = torch.arange(1000.0)
        torch.save({"weights": weights, "step": 3}, background.stream(file))
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"], weights)
