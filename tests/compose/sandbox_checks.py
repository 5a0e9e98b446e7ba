"""Programs that try to do harm, run in the sandbox service as the evaluation worker would."""

from __future__ import annotations

import json
from typing import Any

from checks import expect
from stack import ROOT, Stack

ATTACKS = ROOT / "tests/integration/sandbox/attacks.py"

# Runs behind the attacks' own text, in the evaluation worker's container.
PROBE = """
import json
from workers.evaluation.sandbox.run import Limits, Program
from workers.evaluation.sandbox.sandbox import find_sandbox

sandbox = find_sandbox()
limits = Limits(5.0, 256, output_bytes=1 << 20)

def run(code, limits=limits):
    return sandbox.run(Program(code), b"", limits)

refused = {name: run(code) for name, code in REFUSED.items()}
endless = {name: run(code, Limits(0.5, 256)) for name, code in ENDLESS.items()}
print(json.dumps({
    "refused": {name: [done.report, done.output.decode()] for name, done in refused.items()},
    "endless": {name: done.ending for name, done in endless.items()},
    "memory": run("a = bytearray(10 ** 10)").ending,
    "after": run("import os\\nprint(os.getuid(), os.listdir('/tmp'))").output.decode(),
}))
"""


def check_sandbox(stack: Stack) -> None:
    """The sandbox runs what it should, refuses what it should, and is unharmed by it."""
    code = ATTACKS.read_text() + PROBE
    said = stack.compose("exec", "--no-TTY", "evaluation-worker", "python", "-c", code)
    seen: dict[str, Any] = json.loads(said.splitlines()[-1])
    allowed = {name: what for name, what in seen["refused"].items() if what != ["raised", ""]}
    expect(
        not allowed, f"the sandbox refuses {len(seen['refused'])} attacks {allowed or ''}".strip()
    )
    expect(set(seen["endless"].values()) == {"timed_out"}, "what never ends is ended")
    expect(seen["memory"] == "out_of_memory", "memory is limited")
    expect(seen["after"] == "65534 []\n", "an honest program runs as it should afterwards")
    restarts = stack.container("sandbox")["RestartCount"]
    expect(restarts == 0, "the sandbox did not have to start again")
