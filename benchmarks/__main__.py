"""Run each scene both ways and print the tables."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measured import Measured, Replay
from benchmarks.ours import run_ours
from benchmarks.processes import run
from benchmarks.report import report
from benchmarks.scenes import LONG, SHORT, Scene

PLAIN = (
    "from workers.evaluation.engines.environment import prepare_environment as prepare;"
    "prepare('cpu');"
    "from benchmarks.plain import main; main()"
)
"""vLLM reads its settings when it is imported: the plain way gets the same as ours."""


def main() -> None:
    """Measure and print; a few minutes."""
    for scene in (SHORT, LONG):
        print(measure(scene), flush=True)
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as home:
        print(run(["-m", "benchmarks.reset"], Path(home)), end="")


def measure(scene: Scene) -> str:
    """Run a scene our way, repeat its trials the plain way, and compare."""
    with tempfile.TemporaryDirectory(prefix="hpo-benchmark-") as name:
        folder = Path(name)
        study = scene.write(folder)
        print(f"{scene.name}: ours ...", file=sys.stderr, flush=True)
        ours, replay = run_ours(scene.name, study, folder)
        print(f"{scene.name}: plain ...", file=sys.stderr, flush=True)
        return report(scene.title, ours, _run_plain(replay, folder))


def _run_plain(replay: Replay, folder: Path) -> Measured:
    given, result = folder / "replay.json", folder / "plain.json"
    given.write_text(replay.model_dump_json())
    run(["-c", PLAIN, str(given), str(result)], folder / "home")
    return Measured.model_validate_json(result.read_text())


if __name__ == "__main__":
    main()
