"""What is expected of the services, and waiting for it."""

from __future__ import annotations

import time

from engine import say
from stack import Stack

WORKERS = ("trial-worker", "evaluation-worker")


def expect(holds: bool, text: str) -> None:
    """Say what was checked, or end."""
    if not holds:
        raise SystemExit(f"does not hold: {text}")
    say(f"holds: {text}")


def wait_until_healthy(stack: Stack, service: str) -> None:
    """Give a health check the time of a few rounds."""
    for _ in range(90):
        health = stack.container(service)["State"]["Health"]["Status"]
        if health == "healthy":
            break
        time.sleep(1)
    expect(health == "healthy", f"{service} is healthy")


def settled(stack: Stack, worker: str) -> None:
    """Wait for a worker's end, which must be a good one."""
    for _ in range(90):
        state = stack.container(worker)["State"]
        if state["Status"] == "exited":
            break
        time.sleep(1)
    expect((state["Status"], state["ExitCode"]) == ("exited", 0), f"{worker} ended with 0")
