"""Bubblewrap as root and as anybody, found and not found, used by several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from sandbox_lab import LIMITS, NOBODY, ROOT, Processes, run, works

from hpo.spec.errors import InputError
from workers.evaluation.sandbox.bubblewrap import BubblewrapSandbox
from workers.evaluation.sandbox.orphans import end_orphans
from workers.evaluation.sandbox.run import Program, SandboxError
from workers.evaluation.sandbox.sandbox import VARIABLE, find_sandbox, most_at_once

ENDLESS = """
from workers.evaluation.sandbox.run import Limits, Program
from workers.evaluation.sandbox.sandbox import find_sandbox
sandbox = find_sandbox()
print("begun", flush=True)
sandbox.run(Program("import time\\ntime.sleep(600)"), b"", Limits(600, 128))
"""

AS_ANYBODY = """
from workers.evaluation.sandbox.run import Limits, Program
from workers.evaluation.sandbox.sandbox import find_sandbox
sandbox, limits = find_sandbox(), Limits(0.5, 128, threads=16)
for code in (
    "import os\\nprint(os.getuid(), os.listdir('/tmp'))",
    "import os\\nos.fork()",
    "open('/etc/passwd')",
    "import threading\\nwhile True: threading.Thread(target=print, daemon=True).start()",
    "from threading import Event, Thread\\nwhile True: Thread(target=Event().wait).start()",
    "while True: pass",
):
    run = sandbox.run(Program(code), b"", limits)
    said = (run.errors.splitlines() or [run.output.strip()])[-1].decode()
    print(f"{run.ending} {run.report} {said:.40}")
"""


# Killed with its bwrap at some moment of the first milliseconds.
KILLED_EARLY = """
import os, signal, subprocess, threading, time
from workers.evaluation.sandbox.bubblewrap import BubblewrapSandbox
from workers.evaluation.sandbox.interpreter import this_interpreter
from workers.evaluation.sandbox.run import Limits, Program
from workers.evaluation.sandbox import supervise

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        options["env"] = {{**options["env"], "HPO_TEST_MARKER": "{marker}"}}
        super().__init__(*arguments, **options)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

sandbox = BubblewrapSandbox({program!r}, this_interpreter())
supervise.subprocess.Popen = Popen
for number in range(40):
    delay = 0.0005 * number
    child = os.fork()
    if child == 0:
        sandbox.run(Program("import time; time.sleep(600)"), b"", Limits(600, 128))
    os.waitpid(child, 0)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_as_a_user_without_privileges() -> None:
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        python(AS_ANYBODY),
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        **user,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "exited finished 65534 []",
        "exited raised PermissionError: [Errno 1] Operation not",
        "exited raised FileNotFoundError: [Errno 2] No such fil",
        "timed_out None ",
        "exited raised RuntimeError: can't start new thread",
        "timed_out None ",
    ]


def test_a_killed_caller_leaves_nothing() -> None:
    processes = Processes()
    with processes.watched():
        caller = subprocess.Popen(
            python(ENDLESS), env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
        )
        with caller:
            assert caller.stdout is not None
            assert caller.stdout.readline() == b"begun\n"
            while len(psutil.Process(caller.pid).children(recursive=True)) < 3:
                time.sleep(0.02)
            time.sleep(0.2)
            caller.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes.left() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(processes.seen) >= 4
    assert not processes.left()


def test_a_caller_killed_while_the_sandbox_is_made(bubblewrap: BubblewrapSandbox) -> None:
    processes = Processes()
    code = KILLED_EARLY.format(marker=os.getpid(), program=bubblewrap.program)
    subprocess.run(python(code), cwd=ROOT, check=True)
    deadline = time.monotonic() + 20
    while left := [process for process in psutil.process_iter() if mine(process, str(os.getpid()))]:
        assert time.monotonic() < deadline, left
        end_orphans(bubblewrap.program)
        time.sleep(0.05)
    assert not processes.left()
    assert works(bubblewrap)


def mine(process: psutil.Process, marker: str) -> bool:
    """Whether a process, not yet buried, is a sandbox of the test above."""
    try:
        known = process.environ().get("HPO_TEST_MARKER") == marker
        return known and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def test_from_several_threads(bubblewrap: BubblewrapSandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = pool.map(lambda number: run(bubblewrap, f"print({number})"), range(16))
        assert [done.output for done in runs] == [b"%d\n" % number for number in range(16)]


def test_from_several_processes(bubblewrap: BubblewrapSandbox) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(works, [bubblewrap] * 4)) == [True] * 4


def test_no_bubblewrap_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"bwrap is not on the PATH; install bubblewrap 0\.7"):
        find_sandbox()
    assert most_at_once() is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'bwrap: Creating new namespace failed' >&2; exit 1", "Creating new namespace"),
        ("exit 3", "it ended with status 3"),
    ],
)
def test_a_bubblewrap_that_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=f"bubblewrap does not work here: .*{reason}"):
        find_sandbox()


def test_a_sandbox_that_breaks_is_no_verdict(bubblewrap: BubblewrapSandbox) -> None:
    broken = BubblewrapSandbox("/bin/false", bubblewrap.interpreter)
    with pytest.raises(SandboxError, match="did not start Python"):
        run(broken, "pass")


def test_limits_that_were_inherited(bubblewrap: BubblewrapSandbox) -> None:
    code = (
        "import resource, sys\n"
        "from workers.evaluation.sandbox.run import Limits, Program, SandboxError\n"
        "from workers.evaluation.sandbox.sandbox import find_sandbox\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "sandbox = find_sandbox()\n"
        "print(sandbox.run(Program('print(1)'), b'', Limits(5, 1024)).output)\n"
        "try: sandbox.run(Program('print(1)'), b'', Limits(5, 2048))\n"
        "except SandboxError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.check_output(python(code), env=environment, text=True).splitlines()
    assert said[0] == "b'1\\n'"
    assert said[1].startswith("given a program that may take 2048 MiB; allowed: the 1024 MiB")


def test_no_descriptor_is_left_open(bubblewrap: BubblewrapSandbox) -> None:
    run(bubblewrap, "pass")
    before = sorted(os.listdir("/proc/self/fd"))
    for code in ("pass", "1 / 0", "import os\nos.abort()"):
        bubblewrap.run(Program(code), b"", LIMITS)
    assert sorted(os.listdir("/proc/self/fd")) == before
