"""The vLLM engine that writes responses.

vLLM runs in this process, so `prepare_environment` must have been called
before this module is imported.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import vllm
from vllm import LLM, SamplingParams

from hpo.spec.errors import InputError
from hpo.spec.generate import Engine, Level
from workers.evaluation.engines.options import EngineSize, engine_options
from workers.generation.model import LocalModel

VERSION: str = vllm.__version__
_CPU_CACHE_MIB = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One response that is asked for."""

    prompt: list[int]
    settings: Level
    seed: int


@dataclass(frozen=True, slots=True)
class Response:
    """What the model wrote, without special tokens."""

    text: str
    finish_reason: str
    """`stop` at an end token or a stop text, `length` at the limit."""


class WritingEngine:
    """A vLLM engine that samples every response with a seed of its own.

    Raises InputError for a model that vLLM cannot serve on the device.
    """

    def __init__(
        self,
        model: LocalModel,
        dtype: str,
        sizes: Engine,
        *,
        device: str,
        max_model_len: int,
        stop_tokens: Sequence[int],
    ) -> None:
        self._stop_tokens = list(stop_tokens)
        size = EngineSize(
            sequences=sizes.batch,
            max_model_len=max_model_len,
            kv_cache_mib=sizes.kv_cache_mib or (_CPU_CACHE_MIB if device == "cpu" else None),
            gpu_memory_fraction=sizes.gpu_memory_fraction,
        )
        try:
            self._llm = LLM(**engine_options(str(model.folder), dtype, size, device=device))
        except (ValueError, RuntimeError, OSError) as error:
            reason = textwrap.shorten(str(error), 400)
            raise InputError(
                f"model.path: given {model.name!r}, which vLLM cannot serve here ({reason}); "
                "allowed: a model that it knows and that fits; see the section engine"
            ) from error

    def write(self, requests: Sequence[Request]) -> list[Response]:
        """The responses to some requests, in their order."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": request.prompt} for request in requests],
            [sampling(request, self._stop_tokens) for request in requests],
            use_tqdm=False,
        )
        found = [output.outputs[0] for output in outputs]
        return [Response(best.text.strip(), str(best.finish_reason)) for best in found]

    def close(self) -> None:
        """Shut the engine down and give its memory back."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm


def sampling(request: Request, stop_tokens: list[int]) -> SamplingParams:
    """A level's settings as vLLM has them."""
    settings = request.settings
    return SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k or 0,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        max_tokens=settings.max_new_tokens,
        stop=list(settings.stop),
        stop_token_ids=stop_tokens,
        seed=request.seed,
    )
