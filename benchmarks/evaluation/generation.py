"""Our generation against vLLM's own `LLM.generate` on the same prompts, and with grading beside it.

`python -m benchmarks.evaluation.generation [GSM8K] [--turns N]` prints the tables.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.evaluation.anew import BareEngine, Written
from benchmarks.evaluation.scenes import (
    HALF_MILLION,
    TWENTY_MILLION,
    Scene,
    checkpoints_folder,
    read_sets,
    read_spec,
)
from benchmarks.evaluation.turns import HEAD, READING, RULE, Way, alternate
from hpo.spec.tasks import AnyTask, ExactTask, MathTask
from storage.checkpoints import CheckpointStore
from workers.evaluation.engines.engines import EvaluationEngines, Generated
from workers.evaluation.engines.environment import prepare_environment
from workers.evaluation.grading.pool import Grading, GradingPool
from workers.evaluation.sets import GenerationSet

TURNS = 25
TASKS: Sequence[AnyTask | None] = (None, ExactTask(), MathTask(type="math"))
NAMES = ("bare", "ours", "ours, graded as exact", "ours, graded as math")
SCENES = (
    Scene("generation-tiny", HALF_MILLION, "full", "math", 224, 24, 1, 4),
    Scene("generation-larger", TWENTY_MILLION, "full", "math", 24, 32, 1, 1),
)
NOTES = f"""\
Ours is `EvaluationEngines.generate`, which gives vLLM requests bit by bit and hands each answer \
on when it is finished; bare is `LLM.generate` on an engine of its own with the same options and \
weights, which has all prompts at once and gives all answers at the end. All ways are in one \
process, take turns, and begin with an empty prefix cache. Where it says graded, each answer is \
handed to the graders when it is finished; so that they have what a trained model would give \
them, they get the data's own solutions in place of its text, every second one that of another \
problem. Waiting, the median, is from the last answer to the last grade, and part of the seconds. \
`exact` is graded between two steps of the engine, `math` by other processes, which share the \
cores with it. \
{READING}"""


@dataclass
class Ours:
    """Our generation, and perhaps our grading beside it."""

    engines: EvaluationEngines
    asked: GenerationSet
    pool: GradingPool
    task: AnyTask | None = None
    answers: dict[int, Generated] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    """Seconds from the last answer to the last grade, turn by turn."""

    def generate(self) -> None:
        """All answers, and their grades."""
        self.answers.clear()
        if self.task is None:
            self.engines.generate(self.asked.writing, self._take)
            return
        with self.pool.begin(self.task, self.asked.items) as grading:
            self._generate_graded(grading)
            started = perf_counter()
            self._require_graded(grading)
            self.waited.append(perf_counter() - started)

    def _generate_graded(self, grading: Grading) -> None:
        def take(index: int, sample: int, answer: Generated) -> None:
            self._take(index, sample, answer)
            grading.submit(index, sample, self._solution(index))

        self.engines.generate(self.asked.writing, take)

    def _require_graded(self, grading: Grading) -> None:
        grades = [first for first, *_ in grading.grades()]
        right = sum(grade.score for grade in grades)
        assert len(grades) / 2 <= right < len(grades), "the grades are not those of the solutions"

    def _take(self, index: int, sample: int, answer: Generated) -> None:
        self.answers[index] = answer

    def _solution(self, index: int) -> str:
        """The item's own, or for every second item that of the next."""
        return self.asked.perfect[(index + index % 2) % len(self.asked.perfect)]


@dataclass
class Bare:
    """vLLM alone."""

    engine: BareEngine
    answers: Written | None = None

    def generate(self) -> None:
        """All answers."""
        self.answers = self.engine.generate()


@contextmanager
def _engines(scene: Scene, gsm8k: Path | None) -> Iterator[tuple[Bare, list[Ours], list[Way]]]:
    """Both engines on the scene's checkpoint, and the ways to use them, the bare one first."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpo-benchmark-")))
        scene.write(gsm8k, folder)
        checkpoint = CheckpointStore(checkpoints_folder(folder)).open(*scene.addresses())
        spec, asked = read_spec(folder), read_sets(read_spec(folder)).generation
        assert asked is not None
        bare = Bare(BareEngine(spec, checkpoint.directory, asked))
        stack.callback(bare.engine.close)
        engines = EvaluationEngines.load(
            spec.model,
            spec.evaluation,
            device="cpu",
            max_model_len=asked.longest,
            lora_rank=None,
            generation=True,
        )
        stack.callback(engines.close)
        pool = stack.enter_context(GradingPool())
        ours = [Ours(engines, asked, pool, task) for task in TASKS]

        def ready() -> None:
            # Loading empties the prefix cache. It also leaves the processor's caches cold,
            # for both ways alike.
            engines.load_weights(checkpoint)
            bare.engine.llm.reset_prefix_cache()

        acts = (bare.generate, *(one.generate for one in ours))
        yield bare, ours, [Way(name, act, ready) for name, act in zip(NAMES, acts, strict=True)]


def compare(scene: Scene, gsm8k: Path | None, turns: int) -> str:
    """The table of one model. Raises AssertionError where a token differs."""
    with _engines(scene, gsm8k) as (bare, ours, ways):
        alternate(ways, count=turns)
        assert bare.answers is not None
        for one in ours:
            found = [one.answers[index].token_ids for index in range(scene.items)]
            assert found == bare.answers.tokens, "the ways wrote other tokens"
        waited = [0.0, *(median(one.waited or [0.0]) for one in ours)]
        tokens = sum(map(len, bare.answers.tokens))
        return table(scene, tokens, ways, waited)


def table(scene: Scene, tokens: int, ways: Sequence[Way], waited: Sequence[float]) -> str:
    """Each way in a row; `waited` are seconds that are part of its own."""
    bare = ways[0]
    return "\n".join(
        [
            f"### generation, {scene.shape.name} parameters: {scene.items} prompts, "
            f"{tokens} new tokens, the same in all ways",
            "",
            f"| way | {HEAD} | waiting for grades, s |",
            f"|---|{RULE}|---:|",
            *(
                f"| {way.name} | {way.cells(bare)} | {wait:.3f} |"
                for way, wait in zip(ways, waited, strict=True)
            ),
            "",
            f"{len(bare.seconds)} turns. Load average {os.getloadavg()[0]:.1f}, "
            f"{len(os.sched_getaffinity(0))} cores.",
            "",
        ]
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k", nargs="?", type=Path, help="folder with GSM8K's files")
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    prepare_environment("cpu")
    for scene in SCENES:
        print(compare(scene, given.gsm8k, given.turns), flush=True)
    print(NOTES)


if __name__ == "__main__":
    main()
