"""The lines of the output: responses with where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.spec.generate import GenerateSpec
from workers.generation.checks import Refusal
from workers.generation.model import LocalModel
from workers.generation.prompts import HumanResponse, Prompt

HUMAN, GENERATED = "human", "generated"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a response."""

    prompt: Prompt
    number: int
    """From 1."""
    seed: int


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes records of one run's model and settings.

    Where every source holds plain texts a record has `prompt` and
    `completion`; else all records have `messages`, the turns and the response
    as the last one. A study reads either without being told.
    """

    spec: GenerateSpec
    model: LocalModel
    vllm: str
    """Version of vLLM."""
    template: str
    """`chat` or `plain`."""

    def accepted(self, attempt: Attempt, text: str, finish_reason: str) -> Record:
        """A response that was generated and accepted."""
        return {
            "id": attempt.prompt.id,
            **_said(self.spec, attempt.prompt, text),
            **_known(attempt.prompt, GENERATED),
            "provenance": self._provenance(attempt, finish_reason),
        }

    def refused(self, attempt: Attempt, text: str, finish_reason: str, why: Refusal) -> Record:
        """A response that was generated and refused."""
        return {
            "id": attempt.prompt.id,
            "reason": why.reason,
            "detail": why.detail,
            "completion": text,
            **_known(attempt.prompt, GENERATED),
            "provenance": self._provenance(attempt, finish_reason),
        }

    def unanswerable(self, prompt: Prompt, why: Refusal) -> Record:
        """A prompt for which nothing can be generated; without an attempt, it is final."""
        return {
            "id": prompt.id,
            "reason": why.reason,
            "detail": why.detail,
            **_known(prompt, GENERATED),
            "provenance": {"model": self.model.name, "revision": self.model.content},
        }

    def _provenance(self, attempt: Attempt, finish_reason: str) -> Record:
        settings = self.spec.levels[attempt.prompt.level].model_dump(
            mode="json", exclude={"system_prompt", "samples"}
        )
        return {
            "model": self.model.name,
            "revision": self.model.content,
            "dtype": self.spec.model.dtype,
            "vllm": self.vllm,
            "settings": {"template": self.template, **settings},
            "seed": attempt.seed,
            "attempt": attempt.number,
            "finish_reason": finish_reason,
        }


def human_record(spec: GenerateSpec, response: HumanResponse, content: str) -> Record:
    """A response that the data brought; `content` is the hash of its file."""
    provenance = {"file": response.prompt.file, "content": content, "response": response.number}
    return {
        "id": response.id,
        **_said(spec, response.prompt, response.text),
        **_known(response.prompt, HUMAN),
        "provenance": provenance,
    }


def attempt_of(record: Mapping[str, Any]) -> int | None:
    """Which attempt a record is of; None where there was none."""
    number: int | None = record["provenance"].get("attempt")
    return number


def response_of(record: Mapping[str, Any]) -> str:
    """The response of a record that was accepted."""
    text: str = (
        record["completion"] if "completion" in record else record["messages"][-1]["content"]
    )
    return text


def _said(spec: GenerateSpec, prompt: Prompt, text: str) -> Record:
    if all(source.format == "text" for source in spec.prompts):
        return {"prompt": prompt.text, "completion": text}
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
    return {"messages": [*turns, {"role": "assistant", "content": text}]}


def _known(prompt: Prompt, source: str) -> Record:
    return {
        "level": prompt.level,
        "source": source,
        "system_prompt": prompt.system,
        "origin": prompt.origin,
    }
