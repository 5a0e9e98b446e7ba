"""`python -m benchmarks.evaluation [GSM8K]`: every measurement of evaluations.

Each is a process of its own with one thread for its computations. GSM8K is the
folder with train.jsonl and test.jsonl; without it problems are made up.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import run

PARTS = ("split", "generation", "loss")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k", nargs="?", type=Path, help="folder with GSM8K's files")
    given = parser.parse_args()
    source = [] if given.gsm8k is None else [str(given.gsm8k)]
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as home:
        for name in PARTS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            print(run(["-m", f"benchmarks.evaluation.{name}", *source], Path(home)), flush=True)


if __name__ == "__main__":
    main()
