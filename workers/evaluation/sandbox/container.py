"""A sandbox in a container of its own, reached through a Unix socket."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from dataclasses import dataclass

from workers.evaluation.sandbox.messages import (
    Disconnected,
    decode_reply,
    encode_request,
    receive,
    send,
)
from workers.evaluation.sandbox.run import Limits, Program, Run, SandboxError

_ATTEMPTS = 2
_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ContainerSandbox:
    """Asks the server in the container; runs wait there for their turn."""

    path: str
    """Of the socket."""
    server_seconds: float = 60.0
    """How long the server may be away: not started yet, or starting again."""
    reply_seconds: float = 900.0
    """How long a run may take with the runs that are before it."""

    def run(self, program: Program, stdin: bytes, limits: Limits) -> Run:
        """Run a program to its end; see `Sandbox`.

        Where the server goes away meanwhile, the program is run once more.
        """
        request = encode_request(program, stdin, limits)
        for _ in range(_ATTEMPTS):
            with closing(self._connection()) as connection:
                try:
                    send(connection, request)
                    return decode_reply(receive(connection))
                except Disconnected:
                    continue
                except TimeoutError as error:
                    waited = f"no reply from {self.path} within {self.reply_seconds:g} s"
                    raise SandboxError(waited) from error
        raise SandboxError(
            f"the sandbox container behind {self.path} ended {_ATTEMPTS} times during the same "
            "run; its log says why (docker compose logs sandbox)"
        )

    def _connection(self) -> socket.socket:
        """A connection to the server, as soon as there is one."""
        deadline = time.monotonic() + self.server_seconds
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self.path)
            except OSError as error:
                connection.close()
                absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
                if not absent or time.monotonic() >= deadline:
                    raise SandboxError(self._nobody(error)) from error
                time.sleep(_RETRY_SECONDS)
            else:
                connection.settimeout(self.reply_seconds)
                return connection

    def _nobody(self, error: OSError) -> str:
        return f"nobody answers at {self.path} ({error.strerror or error})"
