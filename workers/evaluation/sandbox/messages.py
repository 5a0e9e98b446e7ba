"""What a sandbox container and its clients say to each other: one JSON text per side."""

from __future__ import annotations

import base64
import json
import socket
import struct
from dataclasses import asdict
from typing import Any

from workers.evaluation.sandbox.run import Limits, Program, Run, SandboxError

MOST_BYTES = 256 << 20
"""Of one message."""

_LENGTH = struct.Struct("!I")


class Disconnected(Exception):
    """The other side is gone."""


def send(connection: socket.socket, message: bytes) -> None:
    """Send one message. Raises Disconnected."""
    try:
        connection.sendall(_LENGTH.pack(len(message)) + message)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Disconnected from error


def receive(connection: socket.socket) -> bytes:
    """Receive one message. Raises Disconnected, and TimeoutError by the socket's own limit."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > MOST_BYTES:
        raise Disconnected
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        try:
            chunk = connection.recv(min(count - len(received), 1 << 16))
        except ConnectionResetError as error:
            raise Disconnected from error
        if not chunk:
            raise Disconnected
        received += chunk
    return bytes(received)


def encode_request(program: Program, stdin: bytes, limits: Limits) -> bytes:
    """A program to run."""
    return _encode({"program": asdict(program), "stdin": _text(stdin), "limits": asdict(limits)})


def decode_request(message: bytes) -> tuple[Program, bytes, Limits]:
    """The reverse of `encode_request`."""
    content = json.loads(message)
    program, limits = Program(**content["program"]), Limits(**content["limits"])
    return program, base64.b64decode(content["stdin"]), limits


def encode_run(run: Run) -> bytes:
    """What came of it."""
    content = asdict(run)
    return _encode({**content, "output": _text(run.output), "errors": _text(run.errors)})


def encode_failure(reason: str) -> bytes:
    """Why it could not be run."""
    return _encode({"failure": reason})


def decode_reply(message: bytes) -> Run:
    """The reverse of `encode_run`; raises SandboxError for a failure."""
    content = json.loads(message)
    if "failure" in content:
        raise SandboxError(content["failure"])
    for name in ("output", "errors"):
        content[name] = base64.b64decode(content[name])
    return Run(**content)


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
