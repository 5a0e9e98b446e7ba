"""Both engines, built once on the base model."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hpo.spec.errors import InputError
from hpo.spec.sharing import takes_turns
from hpo.spec.study import EvaluationSpec, ModelSpec
from workers.evaluation.engines.adapters import AdapterLayout, served_rank
from workers.evaluation.engines.arrangement import (
    Arrangement,
    choose_arrangement,
    free_beside_vllm,
    loss_bytes,
)
from workers.evaluation.engines.likelihood import Likelihood, LikelihoodModel, LikelihoodViews
from workers.evaluation.engines.options import evaluation_options
from workers.evaluation.engines.placement import LossAlone, OneCopy, Placement, TwoCopies
from workers.evaluation.engines.views import NotPlain, plain_weights

if TYPE_CHECKING:
    from workers.evaluation.engines.generation import GenerationEngine

_LEVELS: dict[str, Literal[1, 2]] = {"sleep": 1, "reload": 2}
"""At which vLLM sleeps, by the name of the arrangement."""
_ADAPTERS_TOGETHER = 4
"""Adapters that are answered in one run on a GPU, where the study does not say."""


@dataclass(frozen=True)
class Built:
    """The engines of a worker, and how they share their device."""

    arrangement: Arrangement
    placement: Placement
    likelihood: Likelihood
    generation: GenerationEngine | None
    adapters: AdapterLayout | None
    """None where vLLM serves no adapters."""
    together: int
    """Adapters that it serves at a time."""


@dataclass(frozen=True)
class Wanted:
    """What the engines are built for."""

    model: ModelSpec
    evaluation: EvaluationSpec
    device: str
    """`cpu` or `cuda`."""
    max_model_len: int
    lora_rank: int | None

    def build(self, generation: bool) -> Built:
        """Build them. Raises InputError for what cannot be served."""
        skeleton = _skeleton(self.model)
        arrangement = self._arrangement(skeleton, generation)
        if not generation:
            own = self._own_copy()
            return Built(arrangement, LossAlone(own), own, None, self._adapters(skeleton), 1)
        if arrangement.name == "views":
            try:
                return self._sharing(skeleton, arrangement)
            except NotPlain as why:
                not_plain = str(why)
            _forget_what_failed()
            arrangement = self._arrangement(skeleton, generation, not_plain)
        return self._apart(skeleton, arrangement)

    def _sharing(self, skeleton: PreTrainedModel, arrangement: Arrangement) -> Built:
        """One copy of the weights. Raises NotPlain; what was built is shut down then."""
        engine = self._engine(skeleton, arrangement)
        try:
            views = LikelihoodViews(self.model.path, self.model.dtype, engine.module)
        except NotPlain:
            engine.close()
            raise
        return self._built(skeleton, arrangement, OneCopy(views, engine))

    def _apart(self, skeleton: PreTrainedModel, arrangement: Arrangement) -> Built:
        """A copy of the weights for each."""
        own = self._own_copy()
        engine = self._engine(skeleton, arrangement)
        level = _LEVELS.get(arrangement.name)
        return self._built(skeleton, arrangement, TwoCopies(own, engine, level))

    def _built(
        self, skeleton: PreTrainedModel, arrangement: Arrangement, placement: OneCopy | TwoCopies
    ) -> Built:
        return Built(
            arrangement,
            placement,
            placement.likelihood,
            placement.generation,
            self._adapters(skeleton),
            self._together(),
        )

    def _engine(self, skeleton: PreTrainedModel, arrangement: Arrangement) -> GenerationEngine:
        # Not imported where no answers are generated: it takes seconds.
        from workers.evaluation.engines.generation import GenerationEngine

        layout = self._adapters(skeleton)
        kind: Literal["cpu", "cuda"] = "cpu" if self.device == "cpu" else "cuda"
        in_turns = takes_turns(self.evaluation.sharing, kind)
        options = evaluation_options(
            self.model,
            self.evaluation,
            device=self.device,
            max_model_len=min(self.max_model_len, _window(skeleton, self.max_model_len)),
            max_lora_rank=None if layout is None else layout.max_rank,
            together=self._together(),
            sleeps=arrangement.name in _LEVELS or in_turns,
        )
        loading = plain_weights if arrangement.name == "views" else nullcontext
        return GenerationEngine(options, loading, in_turns=in_turns)

    def _own_copy(self) -> LikelihoodModel:
        return LikelihoodModel(self.model.path, self.model.dtype, torch.device(self.device))

    def _adapters(self, skeleton: PreTrainedModel) -> AdapterLayout | None:
        if self.lora_rank is None:
            return None
        layout = AdapterLayout.of(skeleton, served_rank(self.lora_rank))
        # vLLM refuses to be built with LoRA for a model without layers for it.
        return layout if layout.linear else None

    def _together(self) -> int:
        asked = self.evaluation.adapters_together
        if self.device != "cpu":
            return asked or _ADAPTERS_TOGETHER
        if asked is not None and asked > 1:
            raise InputError(
                f"evaluation.adapters_together: given {asked}; allowed: 1 on a CPU, "
                "where nothing is gained by more"
            )
        return 1

    def _arrangement(
        self, skeleton: PreTrainedModel, generation: bool, not_plain: str | None = None
    ) -> Arrangement:
        size = _bytes(skeleton)
        on_cpu = self.device == "cpu"
        return choose_arrangement(
            self.evaluation.memory,
            model_type=skeleton.config.model_type,
            device=self.device,
            generation=generation,
            weights_bytes=size,
            free_bytes=None if on_cpu else free_beside_vllm(self.evaluation, size),
            loss_bytes=loss_bytes(
                skeleton.config, self.model.dtype, self.evaluation.tokens_per_batch
            ),
            not_plain=not_plain,
        )


def _forget_what_failed() -> None:
    # An engine that was shut down holds references to itself.
    gc.collect()
    torch.cuda.empty_cache()


def _skeleton(model: ModelSpec) -> PreTrainedModel:
    """The model without its weights."""
    config = AutoConfig.from_pretrained(model.path)
    with torch.device("meta"):
        skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, model.dtype)
        )
    return skeleton


def _bytes(skeleton: PreTrainedModel) -> int:
    return sum(each.numel() * each.element_size() for each in skeleton.parameters())


def _window(skeleton: PreTrainedModel, otherwise: int) -> int:
    """Most tokens that the model takes, prompt and answer together."""
    length = getattr(skeleton.config.get_text_config(), "max_position_embeddings", None)
    return otherwise if length is None else int(length)
