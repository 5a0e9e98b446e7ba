"""Hostile programs in both kinds of sandboxes: they come to nothing, and leave nothing."""

from __future__ import annotations

import dataclasses
import platform
import time

import attacks
import pytest
from sandbox_lab import LIMITS, Processes, run, works

from workers.evaluation.sandbox.bubblewrap import BubblewrapSandbox
from workers.evaluation.sandbox.run import Limits, Program, Sandbox

SHORT = dataclasses.replace(LIMITS, seconds=0.5)
CHECK = "def check(candidate):\n    assert candidate() == 42\n\ncheck(f)\n"


@pytest.mark.parametrize("name", sorted(attacks.REFUSED))
def test_what_is_refused(sandbox: Sandbox, name: str) -> None:
    processes = Processes()
    with processes.watched():
        done = run(sandbox, attacks.REFUSED[name])
    assert done.report == "raised", done
    assert done.output == b""
    assert not processes.left()
    assert works(sandbox)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of another machine")
@pytest.mark.parametrize("name", sorted(attacks.SYSTEM_CALLS))
def test_system_calls_past_python(bubblewrap: BubblewrapSandbox, name: str) -> None:
    assert run(bubblewrap, attacks.SYSTEM_CALLS[name]).output == b"1\n"


@pytest.mark.parametrize("name", sorted(attacks.KILLED))
def test_what_kills_itself(sandbox: Sandbox, name: str) -> None:
    done = run(sandbox, attacks.KILLED[name])
    assert not done.finished
    assert done.ending in ("killed", "out_of_memory") or done.report == "raised", done
    assert works(sandbox)


@pytest.mark.parametrize("name", sorted(attacks.ENDLESS))
def test_what_never_ends(sandbox: Sandbox, name: str) -> None:
    processes = Processes()
    started = time.monotonic()
    with processes.watched():
        done = run(sandbox, attacks.ENDLESS[name], SHORT)
    assert done.ending == "timed_out", done
    assert 0.5 <= done.seconds < 5
    assert time.monotonic() - started < 10
    assert processes.seen
    assert not processes.left()
    assert works(sandbox)


@pytest.mark.parametrize("name", sorted(attacks.CHEATS))
def test_what_does_not_pass_for_a_success(sandbox: Sandbox, name: str) -> None:
    done = sandbox.run(Program(attacks.CHEATS[name], CHECK), b"", SHORT)
    assert not done.finished, done
    assert works(sandbox)


@pytest.mark.parametrize("descriptor", [1, 2])
def test_endless_output(sandbox: Sandbox, descriptor: int) -> None:
    done = run(sandbox, f"import os\nwhile True: os.write({descriptor}, b'x' * 1000)")
    assert done.ending == "too_much_output"
    assert len(done.output) + len(done.errors) <= LIMITS.output_bytes
    assert works(sandbox)


@pytest.mark.parametrize(
    "code",
    [
        "a = bytearray(10 ** 10)",
        "a = []\nwhile True: a.append(bytes(1 << 20))",
        "import mmap\na = []\nwhile True: a.append(mmap.mmap(-1, 1 << 20))",
    ],
    ids=["at-once", "bit-by-bit", "mapped"],
)
def test_memory_bombs(sandbox: Sandbox, code: str) -> None:
    done = run(sandbox, code)
    assert done.ending == "out_of_memory" or b"Cannot allocate memory" in done.errors, done
    assert works(sandbox)


def test_what_one_run_writes_the_next_does_not_see(sandbox: Sandbox) -> None:
    listing = (
        "import os\nprint([p for p in ('/tmp', '/dev/shm') if os.path.isdir(p) and os.listdir(p)])"
    )
    left = (
        "import os\n"
        "for p in ('/tmp', '/dev/shm'):\n"
        "    if os.path.isdir(p): open(p + '/removed-0', 'w').write('secret')\n"
        "os.symlink('/nowhere', '/tmp/removed-1')\nos.makedirs('/tmp/a/b/c')\n"
    )
    assert run(sandbox, left).status == 0
    assert run(sandbox, listing).output == b"[]\n"


def test_what_is_in_there_and_what_not(bubblewrap: BubblewrapSandbox) -> None:
    code = (
        "import os, sys\nprint(sorted(os.environ), os.getcwd(), os.listdir('.'))\n"
        "print(any('packages' in p and os.listdir(p) for p in sys.path if os.path.isdir(p)))\n"
        "print([p for p in ('/proc', '/etc', '/work', '/home', '/bin') if os.path.exists(p)])\n"
        "print([n for n in os.listdir('/usr') + os.listdir('/dev')])\n"
        "import torch"
    )
    done = run(bubblewrap, code)
    lines = done.output.decode().splitlines()
    assert lines[:3] == ["['LD_LIBRARY_PATH', 'PWD', 'PYTHONHASHSEED'] /tmp []", "False", "[]"]
    assert done.errors.endswith(b"No module named 'torch'\n")


def test_threads_and_the_standard_library_work(sandbox: Sandbox) -> None:
    code = (
        "import asyncio, threading, decimal, ssl, sqlite3, zlib, lzma, ctypes, tempfile\n"
        "import dataclasses, typing, heapq, numbers, fractions, itertools, functools, re, json\n"
        "thread = threading.Thread(target=print, args=(1,))\nthread.start()\nthread.join()\n"
        "async def two(): print(2)\n"
        "asyncio.run(two())\n"
        "with tempfile.TemporaryFile() as file: file.write(b'3')\n"
        "print('\\u2713', input())"
    )
    done = run(sandbox, code, Limits(20, 256), stdin="\u2713".encode())
    assert done.output.decode() == "1\n2\n\u2713 \u2713\n", done


def test_sets_have_one_order_for_all_runs(sandbox: Sandbox) -> None:
    code = "print(list({str(n) for n in range(100)}))"
    assert run(sandbox, code).output == run(sandbox, code).output
