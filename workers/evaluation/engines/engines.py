"""Both engines of an evaluation worker on one device, and the weights they share.

Two copies of the weights are held: transformers' and vLLM's. A checkpoint is
read once, into the transformers model, and vLLM takes the tensors from there.
That works for every architecture that both libraries know, which views of
vLLM's fused layers do not. It takes, besides vLLM's share of the memory
(`gpu_memory_fraction`), the model's size in its own type plus the activations
of one batch of the loss. On a GPU vLLM gives its share back while the loss is
computed, so that the batch may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import torch
from transformers import AutoConfig

from hpo.spec.errors import InputError
from hpo.spec.study import EvaluationSpec, ModelSpec
from storage.checkpoints import Checkpoint, CheckpointError
from workers.data.tokens.tokenizer import load_tokenizer, pad_id
from workers.evaluation.engines.adapters import AdapterLayout, served_rank, verify_adapter
from workers.evaluation.engines.likelihood import LikelihoodModel
from workers.evaluation.engines.weights import verify_full

if TYPE_CHECKING:
    from workers.data.batches.loss import LossResult
    from workers.data.tokens.encoded import EncodedExample
    from workers.evaluation.engines.generation import GenerationEngine


class EvaluationEngines:
    """Generates with vLLM and computes the loss with transformers, checkpoint after checkpoint.

    `load_weights` comes first; after one that failed, `generate` and `loss`
    raise until another succeeds.
    """

    def __init__(
        self,
        likelihood: LikelihoodModel,
        generation: GenerationEngine | None,
        *,
        adapters: AdapterLayout | None,
        pad_id: int,
    ) -> None:
        self.likelihood = likelihood
        self.generation = generation
        self._adapters = adapters
        self._pad_id = pad_id
        self._ready = False

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
        `max_model_len` counts the tokens of a prompt and its answer.
        `lora_rank` is the largest rank of the search space, None without LoRA.
        Full checkpoints are served in any case, merged adapters among them.

        Raises InputError for lengths or ranks that cannot be served.
        """
        kind = device.partition(":")[0]
        if generation:
            _refuse_too_long(model.path, max_model_len)
        rank = None if lora_rank is None else served_rank(lora_rank)
        likelihood = LikelihoodModel(model.path, model.dtype, torch.device(kind))
        layout = None if rank is None else AdapterLayout.of(likelihood.model, rank)
        if layout is not None and not layout.linear:
            # vLLM refuses to be built with LoRA then; adapters come merged, as full checkpoints.
            rank = layout = None
        engine = None
        if generation:
            # Not imported where no answers are generated: it takes seconds.
            from workers.evaluation.engines.generation import GenerationEngine, engine_options

            options = engine_options(
                model, evaluation, device=kind, max_model_len=max_model_len, max_lora_rank=rank
            )
            engine = GenerationEngine(options, tied=bool(likelihood.layout.tied))
        padding = pad_id(load_tokenizer(model.path))
        return cls(likelihood, engine, adapters=layout, pad_id=padding)

    def load_weights(self, checkpoint: Checkpoint | None) -> None:
        """Put a checkpoint, or the base model for None, into both engines.

        Everything is verified before an engine is touched. Raises
        CheckpointError; the engines then serve the next checkpoint as if
        nothing had happened.
        """
        self._ready = False
        if checkpoint is None:
            self._load_base()
        elif checkpoint.kind == "full":
            self._load_full(checkpoint)
        else:
            self._load_adapter(checkpoint)
        self._ready = True

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_token_ids: Sequence[int] = (),
        on_progress: Callable[[], None] | None = None,
    ) -> list[str]:
        """Greedy answers to prompts of token ids, up to an end token, without special tokens.

        End tokens are the model's own and `stop_token_ids`, such as the one
        that ends a turn in a chat template.

        `on_progress` is called after every step of the engine, many times a
        second: it should be cheap. What it raises ends the generation.
        """
        self._require_weights()
        if self.generation is None:
            raise RuntimeError("the engines were loaded without generation")
        answers = self.generation.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            stop_token_ids=stop_token_ids,
            on_progress=on_progress,
        )
        return [answer.text for answer in answers]

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
        This puts vLLM to sleep until the next weights: generate before it.
        """
        self._require_weights()
        if self.generation is not None:
            self.generation.sleep()
        try:
            return self.likelihood.loss(
                examples,
                pad_id=self._pad_id,
                tokens_per_batch=tokens_per_batch,
                most=most,
                on_progress=on_progress,
            )
        finally:
            self._release_cached_memory()

    def close(self) -> None:
        """Shut both engines down and give their memory back."""
        self._ready = False
        if self.generation is not None:
            self.generation.close()
            self.generation = None
        del self.likelihood
        self._release_cached_memory()

    def _load_base(self) -> None:
        self.likelihood.load_base()
        if self.generation is not None:
            self.generation.reload_base(self.likelihood.tensors)

    def _load_full(self, checkpoint: Checkpoint) -> None:
        files = verify_full(checkpoint.directory, self.likelihood.layout)
        self.likelihood.load_full(files)
        if self.generation is not None:
            self.generation.reload(self.likelihood.tensors(), base=False)

    def _load_adapter(self, checkpoint: Checkpoint) -> None:
        if self._adapters is None:
            raise CheckpointError(
                f"adapter {checkpoint.directory} cannot be served: the study searches no LoRA"
            )
        verify_adapter(checkpoint.directory, self._adapters)
        self._load_base()
        if self.generation is not None:
            self.generation.add_adapter(checkpoint.directory)
        self.likelihood.attach(checkpoint.directory)

    def _require_weights(self) -> None:
        if not self._ready:
            raise RuntimeError("no weights are loaded: call load_weights first")

    def _release_cached_memory(self) -> None:
        # What the allocator keeps is lost to vLLM.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _refuse_too_long(path: str, max_model_len: int) -> None:
    most = getattr(AutoConfig.from_pretrained(path), "max_position_embeddings", None)
    if most is not None and max_model_len > most:
        raise InputError(
            f"prompts and answers of up to {max_model_len} tokens: model {path} takes {most}"
        )
