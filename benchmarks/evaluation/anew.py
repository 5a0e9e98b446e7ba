"""The plain way: vLLM built for each evaluation and unloaded, then transformers' weights reloaded.

`python -m benchmarks.evaluation.anew FOLDER RESULT`, with a scene in FOLDER.
The transformers model is loaded once. Beyond that the way has every advantage:
vLLM is built in this process (in one of its own it imports everything again),
prompts and examples are tokenised once, checkpoints are not verified, the loss
is computed by our code, the grading processes are kept, and there is no
database.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.evaluation.parts import Evaluated, Parts
from benchmarks.evaluation.scenes import CPU, checkpoints_folder, read_sets, read_spec
from hpo.spec.study import StudySpec
from storage.checkpoints import CheckpointStore
from workers.data.batches.loss import LossResult, evaluation_loss
from workers.data.tokens.tokenizer import load_tokenizer, pad_id
from workers.evaluation.engines.environment import prepare_environment
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.sets import EvaluationSets, GenerationSet

T = TypeVar("T")


@dataclass
class Written:
    """Answers in the order of their prompts."""

    texts: list[str]
    tokens: list[tuple[int, ...]]


class BareEngine:
    """`vllm.LLM` as it comes, on a checkpoint, with the options that our engine has."""

    def __init__(self, spec: StudySpec, checkpoint: Path, asked: GenerationSet) -> None:
        # vLLM reads its settings when it is imported.
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest

        adapter = checkpoint / "adapter_config.json"
        rank = json.loads(adapter.read_text())["r"] if adapter.is_file() else None
        options = evaluation_options(
            spec.model if rank else spec.model.model_copy(update={"path": str(checkpoint)}),
            spec.evaluation,
            device="cpu",
            max_model_len=asked.longest,
            max_lora_rank=rank,
        )
        self.llm = LLM(**options, tokenizer=spec.model.path)
        self._adapter = LoRARequest("adapter", 1, str(checkpoint)) if rank else None
        self._prompts: Any = [{"prompt_token_ids": list(prompt)} for prompt in asked.prompts]
        self._sampling = SamplingParams(
            temperature=0.0,
            max_tokens=asked.max_new_tokens,
            stop_token_ids=list(asked.stop_token_ids),
        )

    def generate(self) -> Written:
        """All answers."""
        outputs = self.llm.generate(
            self._prompts, self._sampling, lora_request=self._adapter, use_tqdm=False
        )
        best = [output.outputs[0] for output in outputs]
        return Written([one.text for one in best], [tuple(one.token_ids) for one in best])

    def close(self) -> None:
        """Shut it down."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        # It holds references to itself, and so its cache, until they are looked for.
        gc.collect()


@dataclass
class PlainEvaluation:
    """One checkpoint after another."""

    spec: StudySpec
    sets: EvaluationSets
    model: Any
    pool: GradingPool

    def evaluate(self, checkpoint: Path) -> Parts:
        """Score a checkpoint."""
        asked = self.sets.generation
        assert asked is not None
        written, built, generate, closed = self._generate(checkpoint, asked)
        grade, accuracy = _timed(lambda: self._accuracy(asked, written))
        load, model = _timed(lambda: self._loaded(checkpoint))
        forward, loss = _timed(lambda: self._loss(model))
        unload, _ = _timed(model.unload if model is not self.model else gc.collect)
        load += built + closed + unload
        return Parts(
            address=checkpoint.name,
            loss=loss.mean,
            answers=written.texts,
            accuracy=accuracy,
            seconds=load + generate + grade + forward,
            load=load,
            generate=generate,
            grade=grade,
            switch=0.0,
            forward=forward,
            report=0.0,
        )

    def _generate(
        self, checkpoint: Path, asked: GenerationSet
    ) -> tuple[Written, float, float, float]:
        """Answers, and the seconds of building, generating and closing."""
        built, engine = _timed(lambda: BareEngine(self.spec, checkpoint, asked))
        generate, written = _timed(engine.generate)
        closed, _ = _timed(engine.close)
        return written, built, generate, closed

    def _accuracy(self, asked: GenerationSet, written: Written) -> float:
        with self.pool.begin(asked.task, asked.items) as grading:
            for index, answer in enumerate(written.texts):
                grading.submit(index, 0, answer)
            grades = grading.grades()
        return sum(grade.score for grade, *_ in grades) / len(grades)

    def _loaded(self, checkpoint: Path) -> Any:
        """The model with the checkpoint's weights in it, or its adapter on it."""
        if not (checkpoint / "adapter_config.json").is_file():
            self.model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
            return self.model
        from peft import PeftModel

        return PeftModel.from_pretrained(self.model, checkpoint).train(False)

    def _loss(self, model: Any) -> LossResult:
        return evaluation_loss(
            model,
            self.sets.loss,
            pad_id=pad_id(load_tokenizer(self.spec.model.path)),
            tokens_per_batch=self.spec.evaluation.tokens_per_batch,
            device=CPU,
        )


def _timed(act: Callable[[], T]) -> tuple[float, T]:
    started = perf_counter()
    result = act()
    return perf_counter() - started, result


def evaluate(folder: Path) -> Evaluated:
    """Score every checkpoint of a scene, the first one once before, for it imports vLLM."""
    spec = read_spec(folder)
    sets = read_sets(spec)
    store = CheckpointStore(checkpoints_folder(folder))
    checkpoints = sorted(map(store.open, store.addresses()), key=lambda one: one.step)
    model = AutoModelForCausalLM.from_pretrained(spec.model.path, dtype=torch.float32)
    model.train(False)
    with GradingPool() as pool:
        plain = PlainEvaluation(spec, sets, model, pool)
        plain.evaluate(checkpoints[0].directory)
        parts = [plain.evaluate(checkpoint.directory) for checkpoint in checkpoints]
    return Evaluated(parts=parts, load_average=os.getloadavg()[0])


def main() -> None:
    """Write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    given = parser.parse_args()
    prepare_environment("cpu", str(given.folder))
    given.result.write_text(evaluate(given.folder).model_dump_json())


if __name__ == "__main__":
    main()
