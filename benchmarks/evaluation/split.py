"""Evaluations split into their parts, our way and with engines built anew, as Markdown.

`python -m benchmarks.evaluation.split [GSM8K] [--scene NAME]...` prints the tables.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.evaluation.parts import Evaluated, Parts, largest_difference, other_answers
from benchmarks.evaluation.scenes import SCENES, Scene
from benchmarks.processes import run
from benchmarks.report import ratio

ROWS: Mapping[str, Callable[[Parts], float]] = {
    "evaluation": lambda one: one.seconds,
    "load": lambda one: one.load,
    "generate": lambda one: one.generate,
    "grade (waiting)": lambda one: one.grade,
    "switch": lambda one: one.switch,
    "loss": lambda one: one.forward,
    "report": lambda one: one.report,
    "rest: claim, checksums, packing": lambda one: one.rest,
    "overhead: load, switch, report, rest": lambda one: one.overhead,
}
NOTES = """\
In both: the same trained checkpoints, prompts, options of vLLM, graders and loss; medians. Ours \
is `hpo worker evaluation` on an embedded Postgres with all requests waiting: an evaluation is the \
time from one stored result to the next, with the claim, the checksums of the checkpoint's files, \
`complete` with the report to Optuna, and the commit. Anew builds vLLM in its process for each \
checkpoint, generates, grades, unloads it, then puts the weights into a transformers model that \
stays loaded; it verifies nothing and has no database."""


def measure(scene: Scene, gsm8k: Path | None) -> str:
    """One scene both ways, each a process of its own."""
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as name:
        folder, source = Path(name), [] if gsm8k is None else ["--gsm8k", str(gsm8k)]
        _say(f"{scene.name}: training the checkpoints ...")
        run(["-m", "benchmarks.evaluation.scenes", scene.name, name, *source], folder / "home")
        _say(f"{scene.name}: ours ...")
        ours = _evaluated("served", folder)
        _say(f"{scene.name}: anew ...")
        return table(scene, ours, _evaluated("anew", folder))


def table(scene: Scene, ours: Evaluated, anew: Evaluated) -> str:
    """Both ways side by side, and what was the same in both."""
    rows = [(name, ours.median(of), anew.median(of)) for name, of in ROWS.items()]
    shares = [way.median(lambda one: one.share) for way in (ours, anew)]
    worst = max(part.share for part in ours.parts)
    accuracies = sum(a.accuracy != b.accuracy for a, b in zip(ours.parts, anew.parts, strict=True))
    return "\n".join(
        [
            f"### {scene.title}: {scene.items} prompts of up to {scene.max_new_tokens} new tokens, "
            f"{scene.items} examples of the loss",
            "",
            "| seconds, medians | ours | anew | anew / ours |",
            "|---|---:|---:|---:|",
            *(
                f"| {name} | {a:.3f} | {b:.3f} | {ratio(a, b) if b else ''} |"
                for name, a, b in rows
            ),
            f"| overhead, share of an evaluation | {shares[0]:.1%} | {shares[1]:.1%} | |",
            "",
            f"{len(ours.parts)} evaluations; our largest share of overhead {worst:.1%}; losses "
            f"differ by {largest_difference(ours.parts, anew.parts):.1e} at most, "
            f"{other_answers(ours.parts, anew.parts)} of "
            f"{sum(len(part.answers) for part in ours.parts)} answers and {accuracies} accuracies "
            f"differ. Load average {ours.load_average:.1f} (ours), {anew.load_average:.1f} (anew). "
            f"Memory: {ours.memory}.",
            "",
        ]
    )


def _evaluated(way: str, folder: Path) -> Evaluated:
    result = folder / f"{way}.json"
    run(["-m", f"benchmarks.evaluation.{way}", str(folder), str(result)], folder / "home")
    return Evaluated.model_validate_json(result.read_text())


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k", nargs="?", type=Path, help="folder with GSM8K's files")
    parser.add_argument("--scene", action="append", choices=SCENES, help="all by default")
    given = parser.parse_args()
    for name in given.scene or SCENES:
        print(measure(SCENES[name], given.gsm8k), flush=True)
    print(NOTES)


if __name__ == "__main__":
    main()
