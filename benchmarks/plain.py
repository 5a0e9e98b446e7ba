"""The plain way: load the model for each trial, build vLLM for each evaluation, wait.

A small program as one would write it, run as a process of its own. It repeats given trials with the
decisions that were taken in them, so both ways do the same training and the
same evaluations. It is given every advantage that leaves it plain: libraries
are imported and data is tokenised once, vLLM is built in this process (a new
process for each evaluation would import everything again), the loss is
computed with the model that is in training instead of one read from the
checkpoint, nothing is flushed to disk, and there is no database.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM
from vllm import LLM, SamplingParams

from benchmarks.measured import Evaluation, Measured, Replay, ReplayedTrial, Switch
from hpo.launch.home import HOME_VARIABLE
from hpo.spec.study import StudySpec
from hpo.spec.training.config import TrainingConfig
from workers.data.batches.loss import evaluation_loss
from workers.data.preparing.build import prepare
from workers.data.preparing.recipe import Recipe
from workers.data.preparing.survey import load_encoder
from workers.data.tokens.encoded import EncodedExample
from workers.data.tokens.tokenizer import load_tokenizer, pad_id
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.sets import GenerationSet, generation_set
from workers.trial.loop.run import TrainingRun
from workers.trial.model.attached import AttachedModel

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Data:
    """Everything that is read and tokenised once."""

    train: Sequence[EncodedExample]
    loss: Sequence[EncodedExample]
    generation: GenerationSet

    @staticmethod
    def read(spec: StudySpec, max_length: int, cache: Path) -> Data:
        """Read the three sets; the study must have a generation set."""
        encoder = load_encoder(spec.model.path, spec.data)
        prepared = prepare(Recipe.of(spec), cache)
        generation = spec.data.generation
        assert generation is not None
        return Data(
            train=prepared.training().cut(max_length).examples,
            loss=prepared.encoded("loss").cut(max_length).examples,
            generation=generation_set(prepared, "generation", generation, encoder),
        )


@dataclass
class PlainStudy:
    """Trials one after another, evaluations in between."""

    spec: StudySpec
    data: Data
    pad_id: int
    checkpoint: Path
    """Folder that each checkpoint overwrites."""
    evaluations: list[Evaluation] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    steps: int = 0
    _ended: float | None = None

    def run_trial(self, trial: ReplayedTrial) -> None:
        """Train up to the last evaluation that counted."""
        model = AutoModelForCausalLM.from_pretrained(self.spec.model.path, dtype=torch.float32)
        run = self._training(model, trial.training)
        for step in trial.evaluated_steps:
            while run.step < step:
                report = run.train_batch()
                if report.step == 1 and self._ended is not None:
                    seconds = perf_counter() - self._ended
                    self.switches.append(Switch(seconds=seconds, first_step=report.seconds))
            self.evaluations.append(self._evaluate(model, trial.number, step))
        self.steps += run.step
        self._ended = perf_counter()

    def _training(self, model: Any, config: TrainingConfig) -> TrainingRun:
        model.train()
        named = list(model.named_parameters())
        return TrainingRun(
            AttachedModel("full", model, model, model, named, torch.float32, None),
            config,
            self.data.train,
            pad_id=self.pad_id,
            device=CPU,
        )

    def _evaluate(self, model: Any, number: int, step: int) -> Evaluation:
        model.save_pretrained(self.checkpoint)
        started = perf_counter()
        answers, generate = self._generate()
        generated = perf_counter()
        loss = evaluation_loss(
            model,
            self.data.loss,
            pad_id=self.pad_id,
            tokens_per_batch=self.spec.evaluation.tokens_per_batch,
            device=CPU,
        )
        passed = perf_counter()
        accuracy = self._accuracy(answers)
        ended = perf_counter()
        return Evaluation(
            trial=number,
            step=step,
            loss=loss.mean,
            accuracy=accuracy,
            seconds=ended - started,
            load=generated - started - generate,
            generate=generate,
            grade=ended - passed,
            forward=passed - generated,
        )

    def _generate(self) -> tuple[list[str], float]:
        """Answers of an engine built on the checkpoint, and the seconds of generating."""
        engine = LLM(**self._engine_options(), tokenizer=self.spec.model.path)
        asked = self.data.generation
        prompts = [{"prompt_token_ids": prompt} for prompt in asked.prompts]
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=asked.max_new_tokens,
            stop_token_ids=list(asked.stop_token_ids),
        )
        started = perf_counter()
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        seconds = perf_counter() - started
        engine.llm_engine.engine_core.shutdown()
        del engine
        # It holds references to itself, and so its cache, until they are looked for.
        gc.collect()
        return [output.outputs[0].text for output in outputs], seconds

    def _engine_options(self) -> dict[str, Any]:
        return evaluation_options(
            self.spec.model.model_copy(update={"path": str(self.checkpoint)}),
            self.spec.evaluation,
            device="cpu",
            max_model_len=self.data.generation.longest,
        )

    def _accuracy(self, answers: list[str]) -> float:
        asked = self.data.generation
        with GradingPool() as pool, pool.begin(asked.task, asked.items) as grading:
            for index, answer in enumerate(answers):
                grading.submit(index, 0, answer)
            grades = grading.grades()
        return sum(grade.score for grade, *_ in grades) / len(grades)


def run_plain(replay: Replay) -> Measured:
    """Run the trials in this process, whose start counts too."""
    spec = replay.spec
    tokenizer = load_tokenizer(spec.model.path)
    cache = Path(os.environ[HOME_VARIABLE]) / "data"
    data = Data.read(spec, replay.trials[0].training.max_length, cache)
    with tempfile.TemporaryDirectory(prefix="hpo-plain-") as folder:
        study = PlainStudy(spec, data, pad_id(tokenizer), Path(folder))
        began = time.time()
        for trial in replay.trials:
            study.run_trial(trial)
    ended = time.time()
    return Measured(
        wall=ended - psutil.Process().create_time(),
        working=ended - began,
        switches=study.switches,
        steps=study.steps,
        evaluations=study.evaluations,
        unused_evaluations=0,
        load_average=os.getloadavg()[0],
    )


def main() -> None:
    """Read the replay, write what was measured."""
    replay, result = map(Path, sys.argv[1:])
    measured = run_plain(Replay.model_validate_json(replay.read_text()))
    result.write_text(measured.model_dump_json())
