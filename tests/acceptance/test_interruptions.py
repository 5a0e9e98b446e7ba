"""Runs whose surroundings fail: the server dies, another run leaves, the terminal closes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from running_study import RunningStudy, as_from_a_terminal, wait_until

from hpo.launch.outage import is_away
from hpo.results.snapshot import Snapshot
from storage.cluster import Cluster
from storage.database import Database
from storage.embedded import EmbeddedPostgres, running
from storage.studies import Studies

pytestmark = [pytest.mark.engine, pytest.mark.postgres, pytest.mark.slow]

STUDY = """
name: acceptance
objective: {{metric: loss, direction: minimize}}
model: {{path: "{inputs}/model", dtype: float32}}
data:
  train: {{path: "{inputs}/data/train.jsonl"}}
  loss: {{path: "{inputs}/data/valid.jsonl", samples: 40}}
  separator: ""
training:
  optimizer:
    type: adamw
    learning_rate: {{low: 1.0e-4, high: 1.0e-3, log: true}}
  effective_batch_size: 8
  max_examples: 60000
  max_length: 32
evaluation: {{every: {{examples: 1000}}}}
pruner: {{type: asha, reduction_factor: 3, min_resource: 270}}
budget: {{trials: {trials}}}
"""


@dataclass
class LongStudy(RunningStudy):
    """Trials that last longer than a test, scored by their loss only."""

    @property
    def file(self) -> Path:
        file = self.home / "study.yaml"
        file.write_text(STUDY.format(inputs=self.inputs, trials=self.trials))
        return file

    @property
    def postgres(self) -> Path:
        """The embedded server's folder."""
        return self.home / "postgres"

    def log(self, kind: str) -> str:
        """What a worker said."""
        return (self.home / "out" / "logs" / f"{kind}-worker.log").read_text()


@pytest.fixture
def study(inputs: Path) -> Iterator[LongStudy]:
    # Not below pytest's folder, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="hpo-home-") as home:
        running_study = LongStudy(Path(home), inputs)
        yield running_study
        running_study.end_all()


def kinds(snapshot: Snapshot) -> set[str]:
    return {worker.kind for worker in snapshot.workers}


def progress(snapshot: Snapshot) -> int:
    """Optimizer steps that were evaluated."""
    return sum(trial.step for trial in snapshot.trials)


def test_a_run_brings_its_killed_server_back_and_goes_on(study: LongStudy) -> None:
    run = study.start()
    with study.watched() as look:
        wait_until(lambda: progress(look()) > 100)
        reached = progress(look())
        server = Cluster(study.postgres).process()
        assert server is not None
        server.kill()
        wait_until(lambda: _seen(look, lambda s: kinds(s) == {"trial", "evaluation"}))
        wait_until(lambda: _seen(look, lambda s: progress(s) > reached + 100))
        with Database.open(EmbeddedPostgres(study.postgres).url) as database:
            record = Studies(database).get("acceptance")
            assert record is not None
            Studies(database).request_stop(record.id)
        shown = study.finish(run, seconds=60)
    assert run.returncode == 130, shown
    assert "the database is away: " in shown
    assert "the database is back" in shown
    assert "the study was stopped" in shown
    assert "Traceback" not in shown
    assert not running(study.postgres)


def _seen(look: Callable[[], Snapshot], condition: Callable[[Snapshot], bool]) -> bool:
    """Whether a snapshot shows it; the server may be away meanwhile."""
    try:
        return condition(look())
    except Exception as error:
        if not is_away(error):
            raise
        return False


def test_a_second_run_takes_over_from_one_that_loses_its_terminal(study: LongStudy) -> None:
    first = study.start()
    with study.watched() as look:
        wait_until(lambda: progress(look()) > 0)
        second = study.start()
        children = psutil.Process(first.pid).children(recursive=True)
        assert not any("started" in line for line in _shown_until(second, "base model"))
        first.send_signal(signal.SIGHUP)
        _shown_until(first, "stopping")
        # Terminal and shell both send it; the second must not hurry anybody.
        first.send_signal(signal.SIGHUP)
        shown = study.finish(first, seconds=60)
        assert first.returncode == 130, shown
        assert "killed" not in shown
        assert "Traceback" not in shown
        assert not psutil.wait_procs(children, timeout=5)[1], "no process is left"
        assert "suspended" in study.log("trial")
        wait_until(lambda: kinds(look()) == {"trial", "evaluation"}, seconds=60)
        reached = progress(look())
        wait_until(lambda: progress(look()) > reached)
        workers = [psutil.Process(worker.pid) for worker in look().workers]
        before = study.log("trial").count("suspended")

    # Nobody but its workers uses the server when it is killed, and somebody just looks.
    second.kill()
    study.finish(second)
    with EmbeddedPostgres(study.postgres):
        pass
    assert not psutil.wait_procs(workers, timeout=60)[1], "workers outlive their run"
    assert study.log("trial").count("suspended") == before + 1
    assert "error: " not in study.log("trial") + study.log("evaluation")
    wait_until(lambda: not running(study.postgres), seconds=10)


def _shown_until(run: subprocess.Popen[str], words: str) -> list[str]:
    """The lines that a run prints, to one that begins like that."""
    lines: list[str] = []
    assert run.stdout is not None
    while not (lines and lines[-1].startswith(words)):
        lines.append(run.stdout.readline())
        assert lines[-1], "the run ended"
    return lines


def test_a_lost_terminal_ends_a_command_with_its_server(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hpo-home-") as home:
        master, terminal = pty.openpty()
        command = subprocess.Popen(
            [sys.executable, "-m", "hpo", "dashboard", "--port", "18937"],
            env={**os.environ, "HPO_HOME": home},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_control_terminal,
        )
        os.close(terminal)
        try:
            assert b"dashboard: http://" in os.read(master, 1000)
            assert running(Path(home) / "postgres")
            os.close(master)
            assert command.wait(30) == 130
            assert not running(Path(home) / "postgres")
        finally:
            command.kill()
            command.wait()


def _control_terminal() -> None:
    import fcntl
    import termios

    as_from_a_terminal()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_nohup_keeps_a_command_running() -> None:
    code = (
        "import os, signal, time; from hpo.cli import main; "
        "main.app = lambda: (os.kill(os.getpid(), signal.SIGHUP), print('goes on')); main.main()"
    )
    ended = subprocess.run(
        ["nohup", sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "goes on\n")
