"""Both engines of an evaluation worker on one device, and the weights that they score.

How they share the device's memory is chosen once (`choose_arrangement`):
vLLM's tensors for both, a copy each, or a copy each of which vLLM's sleeps
while the loss is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

import torch

from hpo.spec.study import EvaluationSpec, ModelSpec
from hpo.spec.tasks import Decoding
from storage.checkpoints import Checkpoint
from workers.data.tokens.tokenizer import load_tokenizer, pad_id
from workers.evaluation.engines.building import Built, Wanted
from workers.evaluation.engines.likelihood import read_model
from workers.evaluation.engines.placement import Prepared
from workers.evaluation.engines.preparing import Preparer
from workers.evaluation.engines.recovery import surviving
from workers.evaluation.engines.writing import (
    Ask,
    Generated,
    OnAnswer,
    OnAnswerOfEach,
    Writing,
    asks,
)

if TYPE_CHECKING:
    from workers.data.batches.loss import LossResult
    from workers.data.tokens.encoded import EncodedExample
    from workers.evaluation.engines.arrangement import Arrangement
    from workers.evaluation.engines.generation import GenerationEngine
    from workers.evaluation.engines.likelihood import Likelihood

__all__ = ["EvaluationEngines", "Generated", "OnAnswer", "OnAnswerOfEach", "Writing"]


class EvaluationEngines:
    """Generates with vLLM and computes the loss with transformers, checkpoint after checkpoint.

    `load_weights` comes first; after one that failed, `generate` and `loss`
    raise until another succeeds. Where vLLM fails on weights that were
    verified, it is built anew and the same is tried once more.

    `to_generation` and `to_loss` hand the memory over. They are implied by
    `load_weights` and `loss`; who measures the time that it takes calls them
    before.
    """

    def __init__(self, model: ModelSpec, built: Built, *, pad_id: int) -> None:
        self.arrangement: Arrangement = built.arrangement
        """How the two share the device, and why."""
        self.likelihood: Likelihood = built.likelihood
        self.generation: GenerationEngine | None = built.generation
        self.most_together = built.together
        """Adapters that one run of `generate_together` takes."""
        self._placement = built.placement
        self._preparer = Preparer(
            base=partial(read_model, model.path, model.dtype),
            layout=built.likelihood.layout,
            adapters=built.adapters,
            together=built.together,
        )
        self._pad_id = pad_id
        self._loaded: Prepared | None = None
        self._in_vllm: Prepared | None = None

    @classmethod
    def load(
        cls,
        model: ModelSpec,
        evaluation: EvaluationSpec,
        *,
        device: str,
        max_model_len: int,
        lora_rank: int | None,
        generation: bool,
    ) -> Self:
        """Load the base model into both engines; into transformers alone without `generation`.

        `device` is the one that `prepare_environment` was given.
        `max_model_len` counts the tokens of the longest prompt and its answer;
        the engine takes no more than the model does. `lora_rank` is the
        largest rank of the search space, None without LoRA. Full checkpoints
        are served in any case, merged adapters among them.

        Raises InputError for a model, a rank or an arrangement that cannot be
        served.
        """
        kind = device.partition(":")[0]
        padding = pad_id(load_tokenizer(model.path))
        wanted = Wanted(model, evaluation, kind, max_model_len, lora_rank)
        return cls(model, wanted.build(generation), pad_id=padding)

    @property
    def window(self) -> int:
        """Most tokens of a prompt and its answer; a prompt that fills it is not answered."""
        return self._engine().window

    def load_weights(self, checkpoint: Checkpoint | None, *, generation: bool = True) -> None:
        """Put a checkpoint, or the base model for None, into both engines.

        Everything is verified before an engine is touched. Adapters that vLLM
        does not serve are merged. Without `generation` vLLM is left alone
        where it has weights of its own: only `loss` follows then.

        Raises CheckpointError, of which NotFinite is one; the engines then
        serve the next checkpoint as if nothing had happened.
        """
        self._loaded = self._in_vllm = None
        prepared = self._preparer.prepare(checkpoint)
        put = self._put if generation else self._placement.put_for_loss
        self._surviving(partial(put, prepared))
        self._loaded = prepared

    def generate(
        self,
        writing: Writing,
        on_answer: OnAnswer,
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        """Have a set answered, up to an end token or a stop text, without special tokens.

        `on_answer` is called for each answer as soon as it is finished, in
        any order, between two steps of the engine: it must return at once. It
        is not called for prompts that fill the `window`; an answer that there
        is less room for than `max_new_tokens` gets what is left.

        `on_progress` is called after every step of the engine, many times a
        second: it should be cheap. What either raises ends the generation.

        Raises CheckpointError when vLLM fails twice.
        """
        prepared = self._require_weights()
        self._write(
            prepared,
            writing,
            lambda ask, answer: on_answer(ask.item, ask.sample, answer),
            on_progress,
        )

    def generate_together(
        self,
        checkpoints: Sequence[Checkpoint],
        writing: Writing,
        on_answer: OnAnswerOfEach,
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        """Have a set answered by each of some checkpoints, up to `most_together` at a time.

        Adapters that vLLM serves share a run; whatever else there is has a
        run of its own. Before a loss each checkpoint has to be loaded, which
        `load_weights` can do without vLLM.

        Raises CheckpointError when one of them cannot be served; which one
        shows when each is loaded by itself. Some may have been answered then.
        """
        self._loaded = self._in_vllm = None
        for indices, prepared in self._preparer.runs(checkpoints):

            def take(ask: Ask, answer: Generated, indices: Sequence[int] = indices) -> None:
                on_answer(indices[ask.checkpoint], ask.item, ask.sample, answer)

            self._write(prepared, writing, take, on_progress, checkpoints=len(indices))

    def loss(
        self,
        examples: Sequence[EncodedExample],
        *,
        tokens_per_batch: int,
        most: int | None = None,
        on_progress: Callable[[], None] | None = None,
    ) -> LossResult:
        """Cross-entropy summed over completion tokens, and their number.

        `most` are the examples of one forward pass, where that is limited.
        Where vLLM has to sleep for it, generate before it.
        """
        self._require_weights()
        self.to_loss()
        try:
            return self.likelihood.loss(
                examples,
                pad_id=self._pad_id,
                tokens_per_batch=tokens_per_batch,
                most=most,
                on_progress=on_progress,
            )
        finally:
            _release_cached_memory()

    def to_loss(self) -> None:
        """Leave the memory to the loss, where it is not enough for both."""
        self._placement.to_loss()

    def to_generation(self) -> None:
        """Have vLLM's weights back where they were laid aside; dropped ones come with new ones."""
        self._placement.to_generation()

    def lay_down(self) -> None:
        """Give vLLM's memory to others, until weights are loaded the next time."""
        self._loaded = self._in_vllm = None
        if self.generation is not None:
            self.generation.sleep(2)
        _release_cached_memory()

    def close(self) -> None:
        """Shut both engines down and give their memory back."""
        self._loaded = self._in_vllm = None
        self._placement.close()
        self.generation = None
        del self.likelihood, self._placement
        _release_cached_memory()

    def _write(
        self,
        prepared: Prepared,
        writing: Writing,
        on_answer: Callable[[Ask, Generated], None],
        on_progress: Callable[[], None] | None,
        checkpoints: int = 1,
    ) -> None:
        engine = self._engine()
        answered: set[tuple[int, int, int]] = set()

        def take(ask: Ask, answer: Generated) -> None:
            answered.add(ask.place)
            on_answer(ask, answer)

        def write() -> None:
            # A new engine has the base weights.
            self._put(prepared)
            every = asks(writing, window=engine.window, checkpoints=checkpoints)
            left = (ask for ask in every if ask.place not in answered)
            engine.write(left, writing.decoding, writing.stop_token_ids, take, on_progress)

        self._surviving(write)

    def _put(self, prepared: Prepared) -> None:
        """Have the weights in both engines, unless they are there already."""
        if self._in_vllm is not prepared:
            self._in_vllm = None
            self._placement.put(prepared)
            self._in_vllm = prepared

    def _surviving(self, action: Callable[[], None]) -> None:
        surviving(action, self._rebuild, lambda: self._engine().sequences, self._prove)

    def _prove(self) -> None:
        """Have the base model, which a new engine holds, write one token."""
        one = Ask(0, 0, 0, [self._pad_id], 1, None)
        self._engine().write([one], Decoding(), (), lambda ask, answer: None, None)

    def _rebuild(self, sequences: int | None) -> None:
        self._in_vllm = None
        self._placement.rebuild(sequences)

    def _engine(self) -> GenerationEngine:
        if self.generation is None:
            raise RuntimeError("the engines were loaded without generation")
        return self.generation

    def _require_weights(self) -> Prepared:
        if self._loaded is None:
            raise RuntimeError("no weights are loaded: call load_weights first")
        return self._loaded


def _release_cached_memory() -> None:
    # What the allocator keeps is lost to vLLM.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
