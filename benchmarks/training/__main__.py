"""`python -m benchmarks.training [GSM8K] [--device D]`: every measurement of training.

Each is a process of its own with one thread for its computations. GSM8K is the
folder with train.jsonl; without it the comparison with other trainers is left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import run
from benchmarks.training.trainers import require_packages


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k", nargs="?", type=Path, help="folder with GSM8K's train.jsonl")
    parser.add_argument("--device", default="cpu", help="of loop and switch: cpu or cuda")
    given = parser.parse_args()
    where = ("--device", given.device)
    parts = [["loop", *where], ["switch", *where], ["losses"]]
    if given.gsm8k is None:
        print("no folder of GSM8K: other trainers are left out", file=sys.stderr)
    else:
        require_packages()
        parts.insert(1, ["trainers", str(given.gsm8k)])
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as home:
        for name, *arguments in parts:
            print(f"{name} ...", file=sys.stderr, flush=True)
            told = run(["-m", f"benchmarks.training.{name}", *arguments], Path(home))
            print(told, flush=True)


if __name__ == "__main__":
    main()
