"""What an example says, as it goes into a layout: turns, system prompt, few-shot examples."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.spec.data import DataSpec
from workers.data.example import Example, Turn
from workers.data.tokens.special import SpecialTokens


class Wording:
    """The texts of an example that go into a layout, safe from being parsed.

    `shots` are the examples that every prompt shows, where the study asks for it.
    """

    def __init__(self, data: DataSpec, shots: Sequence[Example], special: SpecialTokens) -> None:
        self.disarm = special.disarm
        self.every_turn = data.loss_on == "assistant"
        """Whether earlier turns of the assistant are learned, too."""
        self._system_prompt = data.system_prompt or ""
        self._few_shot = data.few_shot
        pairs = [f"{shot.prompt}\n{shot.completion}" for shot in shots]
        self._shared = _numbered(pairs)

    def system(self, example: Example) -> str:
        """The example's own system prompt, or the study's."""
        first = example.turns[0]
        return self.disarm(first.content if first.role == "system" else self._system_prompt)

    def examples(self, example: Example) -> str:
        """The few-shot examples, empty where there are none."""
        if self._few_shot is None:
            return ""
        if self._few_shot.origin == "train":
            return self.disarm(self._shared)
        own = example.shots[: self._few_shot.count]
        return self.disarm(_numbered([f"Input:\n{given}\nOutput:\n{out}" for given, out in own]))

    def prompt(self, example: Example, *, with_examples: bool) -> str:
        """Everything that was said before the answer, as one text."""
        prompt = self.disarm(example.prompt)
        return self._led(example, prompt) if with_examples else prompt

    def turns(self, example: Example) -> list[Turn]:
        """The turns, few-shot examples before what the user said last."""
        own = example.turns[example.turns[0].role == "system" :]
        turns = [Turn(turn.role, self.disarm(turn.content)) for turn in own]
        system = self.system(example)
        if system:
            turns.insert(0, Turn("system", system))
        users = [index for index, turn in enumerate(turns) if turn.role == "user"]
        if self._few_shot is not None and users:
            turns[users[-1]] = Turn("user", self._led(example, turns[users[-1]].content))
        return turns

    def _led(self, example: Example, text: str) -> str:
        examples = self.examples(example)
        return f"{examples}\n\n{text}" if examples else text


def _numbered(texts: Sequence[str]) -> str:
    return "\n\n".join(f"Example {number}:\n{text}" for number, text in enumerate(texts, start=1))
