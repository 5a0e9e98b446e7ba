"""Whatever ends a run, the next one goes on, and the outcome is the same."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from generation_lab import Ended, Generating, children, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Other batches than those of the run that it is compared with.
SMALL = ("batch: 5", "batch: 2")


def test_a_killed_run_goes_on(generating: Generating, whole: tuple[Generating, Ended]) -> None:
    # The command itself is killed: what it started ends with it.
    first = generating.start(SMALL)
    wait_until(lambda: generating.count("generated") >= 4)
    started = children(first)
    os.kill(first.pid, signal.SIGKILL)
    assert generating.end(first).code == -signal.SIGKILL
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    saved = [generating.text("responses.jsonl"), generating.text("refused.jsonl")]
    assert 4 <= generating.count("generated") < whole[0].count("generated")

    # A line that was being written when the power failed.
    with (generating.output / "responses.jsonl").open("a") as stream:
        stream.write('{"id": "0123", "prompt": "Ho')

    # The process that generates is killed: the command says so.
    second = generating.start(SMALL)
    done = generating.count("generated")
    wait_until(lambda: generating.count("generated") >= done + 4)
    [writer] = children(second)
    writer.kill()
    ended = generating.end(second)
    assert ended.code == 2
    assert "28 bytes of a line that was never finished were cut off" in ended.out
    assert "ended by SIGKILL; perhaps there was too little memory" in ended.err
    assert "Traceback" not in ended.err

    last = generating.run(SMALL)
    assert last.code == 0, last
    assert "going on: " in last.out
    for name, before in zip(("responses.jsonl", "refused.jsonl"), saved, strict=True):
        text = generating.text(name)
        # Nothing was written anew, and the whole equals a run that nothing interrupted.
        assert text.startswith(before)
        assert text == whole[0].text(name)
    lines = [*generating.lines("responses.jsonl"), *generating.lines("refused.jsonl")]
    attempts = [(line["id"], line["provenance"].get("attempt")) for line in lines]
    assert len(set(attempts)) == len(attempts)
    assert generating.text("report.json") == whole[0].text("report.json")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_says_how_to_go_on(
    generating: Generating, number: signal.Signals
) -> None:
    process = generating.start(SMALL)
    wait_until(lambda: generating.count("human") == 8 and bool(children(process)))
    started = children(process)
    process.send_signal(number)
    ended = generating.end(process)
    assert (ended.code, ended.err) == (130, "")
    assert ended.out.endswith("stopped; run the same command again, and it goes on where it was\n")
    assert not any(child.is_running() for child in started)
    assert not generating.text("report.json")
