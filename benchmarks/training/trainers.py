"""Tokens per second on GSM8K: our loop, transformers' Trainer, TRL's SFTTrainer.

`python -m benchmarks.training.trainers GSM8K [--problems N] [--repeats N]` prints the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.processes import run
from benchmarks.training.models import TEN_MILLION
from benchmarks.training.problems import write_problems
from benchmarks.training.timing import load
from benchmarks.training.ways import WAYS, Speed

PACKAGES = ("accelerate", "datasets", "trl")
OURS = "ours, padded"
"""What the others are compared with."""


def missing() -> list[str]:
    """What has to be installed to compare with the others."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def require_packages() -> None:
    """Exit, saying what to install, unless everything is there."""
    if absent := missing():
        raise SystemExit(
            f"error: the comparison with other trainers needs {', '.join(absent)}; "
            "install them with: pip install -e '.[benchmarks]'"
        )


def compare(source: Path, problems: int, repeats: int) -> dict[str, list[Speed]]:
    """Train every way in turn, each time in a new process."""
    found: dict[str, list[Speed]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as name:
        folder = Path(name)
        write_problems(source, folder, problems)
        TEN_MILLION.write(folder / "model")
        for _ in range(repeats):
            for way, speeds in found.items():
                told = run(["-m", "benchmarks.training.ways", way, name], folder / "home")
                speeds.append(Speed(**json.loads(told.splitlines()[-1])))
    return found


def table(found: dict[str, list[Speed]]) -> list[str]:
    """Lines of Markdown; all are compared with our padded way."""
    ours = found[OURS]
    return [
        f"### {ours[0].tokens} tokens of GSM8K, a {TEN_MILLION.name} model, one thread",
        "",
        "| way | tokens/s | per CPU second | steps | loss | ours padded / it | by CPU time |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_row(way, each, ours) for way, each in found.items()),
        "",
        f"Medians of {len(ours)} rounds, ratios of the same round. {load()}",
        "",
    ]


def _row(way: str, each: list[Speed], ours: list[Speed]) -> str:
    pairs = list(zip(ours, each, strict=True))
    wall = median(mine.per_second / other.per_second for mine, other in pairs)
    busy = median(mine.per_busy_second / other.per_busy_second for mine, other in pairs)
    return (
        f"| {way} | {median(one.per_second for one in each):.0f} | "
        f"{median(one.per_busy_second for one in each):.0f} | "
        f"{each[0].steps} | {each[0].loss:.3f} | {wall:.2f} | {busy:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k", type=Path, help="folder with GSM8K's train.jsonl")
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    require_packages()
    found = compare(given.gsm8k / "train.jsonl", given.problems, given.repeats)
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
