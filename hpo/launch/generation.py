"""Starts the process that generates responses, and ends it with the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO

from hpo.launch.devices import gpu_index
from hpo.launch.inputs import check_device
from hpo.launch.processes import ERROR
from hpo.spec.errors import HpoError
from hpo.spec.generate import GenerateSpec

SECONDS_TO_END = 10.0
USER_ERROR = 2
NOTHING_WRITTEN = 3


class GenerationFailed(HpoError):
    """The process that generates could not go on; its last words say why."""


def run_generation(spec: GenerateSpec, device: str) -> bool:
    """Generate in a process of its own, which prints its progress to our output.

    It ends when this process is interrupted or dies. Returns whether there is
    a single response. Raises DeviceError for a device that is not here and
    GenerationFailed when the process does not come to its end.
    """
    check_device(device, "--device")
    index = gpu_index(device)
    chosen = "cpu" if index is None else f"cuda:{index}"
    command = [sys.executable, "-m", "workers.generation"]
    command += ["--device", chosen, "--parent", str(os.getpid())]
    # What vLLM and torch say about themselves is of interest only after a failure.
    with tempfile.TemporaryFile() as log:
        code = _run(command, spec.model_dump_json().encode(), log)
        if code in (0, NOTHING_WRITTEN):
            return code == 0
        log.seek(0)
        raise GenerationFailed(_reason(code, log.read().decode(errors="replace")))


def _run(command: list[str], given: bytes, log: IO[bytes]) -> int:
    # In a session of its own, so that Ctrl-C reaches only us.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        # A process that dies before it reads says so by its exit code.
        with suppress(BrokenPipeError):
            process.communicate(given)
        return process.wait()
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have the process end, whatever it is doing: nothing that is on the disk is lost."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _reason(code: int, log: str) -> str:
    """What it said for a person; else how it ended, and all that it said."""
    if code == USER_ERROR:
        lines = [line for line in log.splitlines() if line.startswith(ERROR)]
        return "\n".join(line.removeprefix(ERROR) for line in lines)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    memory = "; perhaps there was too little memory" if -code == signal.SIGKILL else ""
    return (
        f"{log.rstrip()}\nthe process that generates ended {how}{memory}; "
        "run the command again, and it goes on where it was"
    ).lstrip()
