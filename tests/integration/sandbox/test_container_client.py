"""A client whose server is late, goes away, or never comes; no wrong grade follows from it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sandbox_lab import LIMITS, NEEDS_ROOT, run, server, socket_folder, works

from hpo.spec.errors import InputError
from workers.evaluation.sandbox.container import ContainerSandbox
from workers.evaluation.sandbox.messages import encode_run, receive, send
from workers.evaluation.sandbox.run import Limits, Run, SandboxError
from workers.evaluation.sandbox.sandbox import VARIABLE, find_sandbox, most_at_once

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason=NEEDS_ROOT)
GOOD = Run("exited", 0, b"right\n", b"", "finished", 0.1)


@pytest.fixture
def folder() -> Iterator[Path]:
    with socket_folder() as made:
        yield made


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def replies(listener: socket.socket, *answers: bytes | None) -> None:
    """Answer one connection after the other; None hangs up on it."""
    for answer in answers:
        connection, _ = listener.accept()
        with connection:
            receive(connection)
            if answer is not None:
                send(connection, answer)


@pytest.fixture
def listener(folder: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(folder / "socket"))
        made.listen()
        yield made


def test_a_dropped_run_is_repeated(folder: Path, listener: socket.socket) -> None:
    thread = in_thread(lambda: replies(listener, None, encode_run(GOOD)))
    assert run(ContainerSandbox(str(folder / "socket")), "pass") == GOOD
    thread.join()


def test_dropped_twice_is_the_sandboxs_fault(folder: Path, listener: socket.socket) -> None:
    thread = in_thread(lambda: replies(listener, None, None))
    with pytest.raises(SandboxError, match="ended 2 times during the same run"):
        run(ContainerSandbox(str(folder / "socket")), "pass")
    thread.join()


def test_no_reply_is_the_sandboxs_fault(folder: Path, listener: socket.socket) -> None:
    with pytest.raises(SandboxError, match=r"no reply from .* within 0\.2 s"):
        run(ContainerSandbox(str(folder / "socket"), reply_seconds=0.2), "pass")


def test_nobody_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = ContainerSandbox(str(folder / "socket"), server_seconds=0.2)
    with pytest.raises(SandboxError, match=r"nobody answers at .*No such file"):
        run(sandbox, "pass")
    monkeypatch.setenv(VARIABLE, str(folder))
    with pytest.raises(InputError, match=f"{VARIABLE} is .*docker compose up sandbox"):
        find_sandbox(server_seconds=0.1)
    assert most_at_once() == 1


@needs_root
def test_a_server_that_comes_late_and_comes_again(folder: Path) -> None:
    sandbox = ContainerSandbox(str(folder / "socket"))
    worked: list[bool] = []
    thread = in_thread(lambda: worked.append(works(sandbox)))
    time.sleep(0.2)
    with server(folder):
        thread.join()
    assert worked == [True]
    with server(folder):
        assert works(sandbox)


@needs_root
def test_a_server_killed_during_a_run(folder: Path) -> None:
    sandbox = ContainerSandbox(str(folder / "socket"))
    runs: list[Run] = []
    code = "import time\ntime.sleep(1)\nprint(1)"
    with server(folder):
        assert works(sandbox)
        thread = in_thread(lambda: runs.append(run(sandbox, code)))
        time.sleep(0.5)
    with server(folder):
        thread.join()
    assert runs[0].output == b"1\n"


@needs_root
def test_a_client_that_leaves_ends_its_run(container: ContainerSandbox) -> None:
    impatient = ContainerSandbox(container.path, reply_seconds=0.3)
    with pytest.raises(SandboxError, match="no reply"):
        run(impatient, "while True: pass", Limits(60, 128))
    started = time.monotonic()
    assert works(container)
    assert time.monotonic() - started < 20


@needs_root
def test_several_clients_take_turns(container: ContainerSandbox) -> None:
    found: dict[int, bytes] = {}

    def ask(number: int) -> None:
        found[number] = run(container, f"print({number})", LIMITS).output

    threads = [in_thread(lambda number=number: ask(number)) for number in range(8)]
    for thread in threads:
        thread.join()
    assert found == {number: b"%d\n" % number for number in range(8)}
