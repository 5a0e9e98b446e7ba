"""Answers out of a vLLM engine, each handed on as soon as it is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from vllm import LLM, RequestOutput, SamplingParams
from vllm.lora.request import LoRARequest

from hpo.spec.tasks import Decoding
from workers.evaluation.engines.recovery import EngineBroken
from workers.evaluation.engines.writing import Ask, Generated

_WAITING_PER_SEQUENCE = 2
"""Requests that vLLM is given beyond those that it decodes, so that it never lacks one."""


class AnswerRun:
    """The answers to one set, with one adapter for each checkpoint, or none at all.

    vLLM is given a few requests more than it decodes at a time: a set of
    thousands would else be queued before the first step, in silence.
    """

    def __init__(
        self,
        llm: LLM,
        decoding: Decoding,
        stop_token_ids: Sequence[int],
        *,
        adapters: Sequence[LoRARequest],
        sequences: int,
    ) -> None:
        self._llm = llm
        self._decoding = decoding
        self._stop_token_ids = list(stop_token_ids)
        self._adapters = adapters
        self._most = sequences * (1 + _WAITING_PER_SEQUENCE)
        self._open: dict[str, tuple[str, Ask]] = {}

    def run(
        self,
        asks: Iterable[Ask],
        on_answer: Callable[[Ask, Generated], None],
        on_progress: Callable[[], None] | None,
    ) -> None:
        """Write all answers; what a callback raises cancels the rest and is passed on.

        `on_progress` is called after every step of the engine, many times a
        second. Raises EngineBroken.
        """
        waiting = iter(asks)
        try:
            while self._fill(waiting):
                self._require_work()
                for output in self._step():
                    _, ask = self._open.pop(output.request_id)
                    on_answer(ask, _answer(output))
                if on_progress is not None:
                    on_progress()
        except EngineBroken:
            raise
        except BaseException:
            self._cancel()
            raise

    def _fill(self, waiting: Iterator[Ask]) -> bool:
        """Queue what there is room for; whether anything is left to do."""
        if len(self._open) <= self._most // 2:
            self._queue(list(islice(waiting, self._most - len(self._open))))
        return bool(self._open)

    def _require_work(self) -> None:
        """Raise EngineBroken when vLLM has dropped what it was asked for: no step would end it."""
        if not self._llm.llm_engine.has_unfinished_requests():
            raise EngineBroken(RuntimeError(f"{len(self._open)} requests were dropped"))

    def _queue(self, asks: Sequence[Ask]) -> None:
        adapters = [self._adapters[ask.checkpoint] for ask in asks] if self._adapters else None
        identifiers = self._llm.enqueue(
            [{"prompt_token_ids": list(ask.prompt)} for ask in asks],
            [self._sampling(ask) for ask in asks],
            lora_request=adapters,
            use_tqdm=False,
        )
        for identifier, ask in zip(identifiers, asks, strict=True):
            # vLLM puts a random ending behind the number that its outputs carry.
            self._open[identifier.rpartition("-")[0]] = (identifier, ask)

    def _sampling(self, ask: Ask) -> SamplingParams:
        return SamplingParams(
            temperature=self._decoding.temperature,
            top_p=self._decoding.top_p,
            seed=ask.seed,
            stop=list(self._decoding.stop),
            stop_token_ids=self._stop_token_ids,
            max_tokens=ask.most,
        )

    def _step(self) -> list[RequestOutput]:
        """What was finished in one step of the engine."""
        try:
            outputs = self._llm.llm_engine.step()
        # Whatever the reason, requests may be half done and the cache half filled.
        except Exception as error:
            raise EngineBroken(error) from error
        return [output for output in outputs if output.finished]

    def _cancel(self) -> None:
        identifiers = [identifier for identifier, _ in self._open.values()]
        self._llm.llm_engine.abort_request(identifiers, internal=True)


def _answer(output: RequestOutput) -> Generated:
    best = output.outputs[0]
    if best.finish_reason not in ("stop", "length"):
        raise EngineBroken(RuntimeError(f"an answer ended as {best.finish_reason!r}"))
    return Generated(best.text, tuple(best.token_ids), best.finish_reason == "length")
