"""The generation side of an evaluation: one vLLM engine, fed with new weights in place.

vLLM runs in this process, so `prepare_environment` must have been called
before this module is imported.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMError
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from hpo.spec.study import EvaluationSpec, ModelSpec
from storage.checkpoints import CheckpointError

_CPU_CACHE_MIB = 128


@dataclass(frozen=True)
class Generated:
    """A greedy completion, cut before the end-of-sequence token."""

    text: str
    token_ids: tuple[int, ...]


def engine_options(
    model: ModelSpec,
    evaluation: EvaluationSpec,
    *,
    device: str,
    max_model_len: int,
    max_lora_rank: int | None,
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a device of type `cpu` or `cuda`."""
    options: dict[str, Any] = {
        "model": model.path,
        "dtype": model.dtype,
        "seed": 0,
        "use_tqdm_on_load": False,
        "max_model_len": max_model_len,
        "max_num_seqs": evaluation.max_num_seqs,
    }
    cache_mib = evaluation.kv_cache_mib
    if device == "cpu":
        # Compiling takes longer than it saves there; sleep mode is refused.
        options["enforce_eager"] = True
        cache_mib = cache_mib or _CPU_CACHE_MIB
    else:
        options["enable_sleep_mode"] = True
        options["gpu_memory_utilization"] = evaluation.gpu_memory_fraction
    if cache_mib is not None:
        options["kv_cache_memory_bytes"] = cache_mib << 20
    if max_lora_rank is not None:
        # One adapter at a time: on a CPU, requests with and without an adapter
        # in one batch are answered wrongly.
        options |= {"enable_lora": True, "max_lora_rank": max_lora_rank}
        options |= {"max_loras": 1, "max_cpu_loras": 1}
    return options


class GenerationEngine:
    """A vLLM engine that is built once and serves checkpoint after checkpoint.

    After `sleep` its weights are gone: `reload` wakes it. `generate` on a
    sleeping engine would hang and therefore raises.
    """

    def __init__(self, options: dict[str, Any], *, tied: bool) -> None:
        self._options = options
        self._tied = tied
        self._on_cpu = "enable_sleep_mode" not in options
        self._adapter: LoRARequest | None = None
        self._numbers = count(1)
        self._asleep = False
        self._holds_base = True
        self._build()

    def reload(self, weights: Iterator[tuple[str, torch.Tensor]], *, base: bool) -> None:
        """Replace all weights in place, drop the adapter, forget cached prefixes.

        `weights` are verified tensors under the names of a checkpoint; `base`
        says that they are the base model's. Raises CheckpointError when vLLM
        fails all the same; the engine is then built anew.
        """
        self._adapter = None
        self._holds_base = False
        try:
            self._replace(weights)
        # Whatever the reason, an engine with half its weights is no engine.
        except Exception as error:
            self.rebuild()
            raise CheckpointError(f"vLLM could not take the weights: {error}") from error
        self._holds_base = base

    def reload_base(self, weights: Callable[[], Iterator[tuple[str, torch.Tensor]]]) -> None:
        """Have the base weights, bare; read only when others were loaded."""
        self.remove_adapter()
        if not self._holds_base:
            self.reload(weights(), base=True)

    def add_adapter(self, directory: Path) -> None:
        """Load a verified adapter on top of the base weights.

        Raises CheckpointError when vLLM refuses it; the engine lives on.
        """
        # vLLM keeps the old adapter, and its cached prefixes, under a number
        # or a name that was used before.
        number = next(self._numbers)
        request = LoRARequest(f"checkpoint-{number}", number, str(directory))
        try:
            self._llm.llm_engine.add_lora(request)
        except (VLLMError, ValueError, RuntimeError, OSError) as error:
            raise CheckpointError(f"vLLM refused the adapter {directory}: {error}") from error
        self._adapter = request

    def remove_adapter(self) -> None:
        """Unload the adapter, if there is one."""
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None
            self._forget_prefixes()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_token_ids: Sequence[int] = (),
        on_progress: Callable[[], None] | None = None,
    ) -> list[Generated]:
        """Greedy completions of the prompts' token ids, in their order.

        `on_progress` is called after every step of the engine; what it raises
        cancels the requests and is passed on.
        """
        if self._asleep:
            raise RuntimeError("the engine sleeps: load weights before generating")
        self._refuse_too_long(prompts, max_new_tokens)
        identifiers = self._llm.enqueue(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            SamplingParams(
                temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=list(stop_token_ids)
            ),
            lora_request=self._adapter,
            use_tqdm=False,
        )
        return self._run(identifiers, on_progress)

    def sleep(self) -> None:
        """Give the GPU memory of weights and cache back.

        On a CPU nothing is freed, but the sequence is the same.
        """
        if not self._asleep:
            self._asleep = True
            self._adapter = None
            self._holds_base = False
            self._llm.sleep(level=2)

    def rebuild(self) -> None:
        """Replace the engine by a new one with the base weights."""
        self.close()
        # The old engine holds references to itself.
        gc.collect()
        self._build()

    def close(self) -> None:
        """Shut the engine down and give its memory back."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    def _build(self) -> None:
        self._llm = LLM(**self._options)
        self._adapter = None
        self._asleep = False
        self._holds_base = True

    def _replace(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if self._tied and self._on_cpu:
            self._llm.apply_model(_repack_output_layer)
        if unfilled := self._llm.apply_model(_unfilled)[0]:
            raise ValueError(f"no weights for {', '.join(unfilled[:3])}")
        if self._asleep:
            torch.cuda.empty_cache()
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        self._forget_prefixes()

    def _forget_prefixes(self) -> None:
        """Raise RuntimeError when vLLM keeps answers of the weights before."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not give up its prefix cache; its answers would be stale")

    def _run(
        self, identifiers: Sequence[str], on_progress: Callable[[], None] | None
    ) -> list[Generated]:
        engine = self._llm.llm_engine
        finished: dict[int, Generated] = {}
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        best = output.outputs[0]
                        finished[int(output.request_id)] = Generated(
                            best.text, tuple(best.token_ids)
                        )
                if on_progress is not None:
                    on_progress()
        except BaseException:
            engine.abort_request(list(identifiers), internal=True)
            raise
        # vLLM numbers requests in the order in which they came.
        return [finished[number] for number in sorted(finished)]

    def _refuse_too_long(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        # vLLM would cut the answers without a word.
        longest = max((len(prompt) for prompt in prompts), default=0)
        room: int = self._options["max_model_len"]
        if longest + max_new_tokens > room:
            raise ValueError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones"
                f" exceed the engine's {room} tokens"
            )


def _repack_output_layer(model: nn.Module) -> None:
    # On a CPU the output layer computes with a packed copy of its weights. When
    # it is tied to the embeddings, a reload leaves that copy as it was.
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def _unfilled(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.is_meta]
