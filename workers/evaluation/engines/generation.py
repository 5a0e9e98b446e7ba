"""The generation side of an evaluation: one vLLM engine, fed with new weights in place.

vLLM runs in this process, so `prepare_environment` must have been called
before this module is imported.
"""

from __future__ import annotations

import gc
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum, auto
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from vllm import LLM
from vllm.exceptions import VLLMError
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.platforms import current_platform

from hpo.spec.errors import InputError
from hpo.spec.tasks import Decoding
from storage.checkpoints import CheckpointError
from workers.devices import memory_share
from workers.evaluation.engines.answering import AnswerRun
from workers.evaluation.engines.recovery import EngineBroken, EngineUnusable
from workers.evaluation.engines.weights import WeightSource
from workers.evaluation.engines.writing import Ask, Generated


class _State(Enum):
    AWAKE = auto()
    LAID_ASIDE = auto()
    """Asleep at level 1: the weights lie in host memory."""
    DROPPED = auto()
    """Asleep at level 2: the weights are gone."""
    EMPTY = auto()
    """Being woken from level 2: there is room for weights, but none are in it yet."""
    CLOSED = auto()


class GenerationEngine:
    """A vLLM engine that is built once and serves checkpoint after checkpoint.

    It holds the base weights, other full weights, or the base weights with
    adapters. Requests with and without an adapter are never in it at once: on
    a CPU the ones without would be answered wrongly.

    Raises InputError for a model that vLLM cannot serve on the device.
    """

    def __init__(
        self,
        options: dict[str, Any],
        loading: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        in_turns: bool = False,
    ) -> None:
        """`loading` surrounds every loading of weights, into this engine and later ones.

        With `in_turns` others keep memory of the GPU meanwhile: the engine
        takes no more than is free whenever it is built.
        """
        self._options = dict(options)
        self._loading = loading
        self._in_turns = in_turns
        self._numbers = count(1)
        self._adapters: list[LoRARequest] = []
        self._state = _State.AWAKE
        self._holds_base = True
        try:
            self._build()
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"model.path: given {options['model']!r}, which vLLM cannot serve here "
                f"({textwrap.shorten(str(error), 400)}); allowed: a model that it knows and that "
                "fits; see max_num_seqs, kv_cache_mib and gpu_memory_fraction of the evaluation"
            ) from error

    @property
    def window(self) -> int:
        """Most tokens of a prompt and its answer."""
        return int(self._options["max_model_len"])

    @property
    def sequences(self) -> int:
        """Decoded at a time."""
        return int(self._options["max_num_seqs"])

    @property
    def module(self) -> nn.Module:
        """vLLM's own model, whose parameters every reload fills anew in place."""
        model: nn.Module = self._llm.apply_model(_itself)[0]
        return model

    def reload(self, weights: WeightSource | None, *, base: bool) -> None:
        """Replace all weights in place, drop the adapters, forget cached prefixes.

        `weights` give verified tensors under the names of a checkpoint; None
        reads the base model's folder. `base` says that they are the base
        model's. Raises EngineBroken when vLLM fails all the same.
        """
        self.wake()
        self._adapters = []
        self._holds_base = False
        try:
            self._replace(weights)
        # Whatever the reason, an engine with half its weights is no engine.
        except Exception as error:
            raise EngineBroken(error) from error
        self._holds_base = base

    def reload_base(self, weights: WeightSource | None) -> None:
        """Have the base weights, bare; read only when others were loaded."""
        self.wake()
        self.remove_adapters()
        if not self._holds_base:
            self.reload(weights, base=True)

    def add_adapter(self, directory: Path) -> None:
        """Load a verified adapter on top of the base weights, beside those that are there.

        Raises CheckpointError when vLLM refuses it; the engine lives on.
        EngineBroken is for a lack of memory.
        """
        # vLLM keeps the old adapter, and its cached prefixes, under a number
        # or a name that was used before.
        number = next(self._numbers)
        request = LoRARequest(f"checkpoint-{number}", number, str(directory))
        try:
            self._llm.llm_engine.add_lora(request)
        except torch.OutOfMemoryError as error:
            raise EngineBroken(error) from error
        except (VLLMError, ValueError, RuntimeError, OSError) as error:
            raise CheckpointError(f"vLLM refused the adapter {directory}: {error}") from error
        self._adapters.append(request)

    def remove_adapters(self) -> None:
        """Unload all adapters."""
        if self._adapters:
            for adapter in self._adapters:
                self._llm.llm_engine.remove_lora(adapter.lora_int_id)
            self._adapters = []
            self._forget_prefixes()

    def write(
        self,
        asks: Iterable[Ask],
        decoding: Decoding,
        stop_token_ids: Sequence[int],
        on_answer: Callable[[Ask, Generated], None],
        on_progress: Callable[[], None] | None,
    ) -> None:
        """Write answers, each handed on when it is finished; see `AnswerRun`.

        Where adapters are loaded, `Ask.checkpoint` counts them.
        """
        if self._state is not _State.AWAKE:
            raise RuntimeError("the engine sleeps: load weights before generating")
        run = AnswerRun(
            self._llm,
            decoding,
            stop_token_ids,
            adapters=self._adapters,
            sequences=self.sequences,
        )
        run.run(asks, on_answer, on_progress)

    def sleep(self, level: Literal[1, 2]) -> None:
        """Give the GPU memory of weights and cache back; at level 1 the weights are kept aside.

        On a CPU nothing is freed, but the sequence is the same.
        """
        if self._state is _State.AWAKE:
            self.remove_adapters()
            self._llm.sleep(level=level)
            self._state = _State.LAID_ASIDE if level == 1 else _State.DROPPED
            self._holds_base = self._holds_base and level == 1

    def wake(self) -> None:
        """Take back what was laid aside at level 1; what was dropped comes with `reload`."""
        if self._state is _State.LAID_ASIDE:
            self._llm.wake_up()
            self._state = _State.AWAKE

    def rebuild(self, sequences: int | None = None) -> None:
        """Replace the engine by a new one with the base weights, perhaps a narrower one.

        Raises EngineUnusable when no other can be built.
        """
        self.close()
        # The old engine holds references to itself.
        gc.collect()
        torch.cuda.empty_cache()
        if sequences is not None:
            self._options["max_num_seqs"] = sequences
        try:
            self._build()
        except (ValueError, RuntimeError, OSError) as error:
            reason = textwrap.shorten(str(error), 400)
            raise EngineUnusable(f"vLLM could not be built anew: {reason}") from error

    def close(self) -> None:
        """Shut the engine down and give its memory back; nothing happens the second time."""
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    def _build(self) -> None:
        options = dict(self._options)
        if self._in_turns and not current_platform.is_cpu():
            share = options["gpu_memory_utilization"]
            options["gpu_memory_utilization"] = memory_share(share, *torch.cuda.mem_get_info())
        with self._loading():
            self._llm = LLM(**options)
        self._adapters = []
        self._state = _State.AWAKE
        self._holds_base = True

    def _replace(self, weights: WeightSource | None) -> None:
        if self._state is _State.DROPPED:
            # The cache comes last: vLLM holds some weights twice while they are replaced.
            self._llm.wake_up(tags=["weights"])
            self._state = _State.EMPTY
        given = {} if weights is None else {"weights_iterator": weights()}
        with self._loading():
            self._llm.collective_rpc("reload_weights", kwargs=given)
            if current_platform.is_cpu():
                self._llm.apply_model(_repack_tied_output_layer)
        if unfilled := self._llm.apply_model(_unfilled)[0]:
            raise ValueError(f"no weights for {', '.join(unfilled[:3])}")
        if self._state is _State.EMPTY:
            torch.cuda.empty_cache()
            self._llm.wake_up(tags=["kv_cache"])
            self._state = _State.AWAKE
        self._forget_prefixes()

    def _forget_prefixes(self) -> None:
        """Raise RuntimeError when vLLM keeps answers of the weights before."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not give up its prefix cache; its answers would be stale")


def _itself(model: nn.Module) -> nn.Module:
    return model


def _repack_tied_output_layer(model: nn.Module) -> None:
    # On a CPU the output layer computes with a packed copy of its weights. When
    # it is tied to the embeddings, a reload leaves that copy as it was.
    tables = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    embeddings = {id(table.weight) for table in tables if not isinstance(table, ParallelLMHead)}
    for table in tables:
        if isinstance(table, ParallelLMHead) and id(table.weight) in embeddings:
            table.quant_method.process_weights_after_loading(table)


def _unfilled(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.is_meta]
