"""The data section: what is trained on and what is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hpo.spec import templates
from hpo.spec.base import NonNegativeInt, NotBoolean, PositiveInt, Strict, broken_rule
from hpo.spec.cleaning import Cleaning, Decontamination, Quality
from hpo.spec.sources import ANSWERED, EvaluationData, FinalData, GenerationData, TrainData


class FewShot(Strict):
    """Examples in the prompt."""

    count: Annotated[int, Field(ge=1, le=3), NotBoolean] = 1
    """How many."""
    origin: Literal["own", "train"] = "own"
    """`own`: the example's input and output pairs (the field `examples`);
    `train`: examples drawn from the training set, which then are not trained on."""
    seed: NonNegativeInt = 0
    """Draws the examples of `train`."""


def _layout(value: str) -> str:
    if value in templates.LAYOUTS or value in templates.NAMED:
        return value
    if not templates.is_text(value):
        names = ", ".join((*templates.LAYOUTS, *templates.NAMED))
        raise ValueError(f"{names}, or a text with {{prompt}} and {{completion}}")
    named = templates.fields(value)
    if not {"completion", *templates.DERIVED} & set(named) and len(named) < 2:
        raise ValueError("a text in which {completion} stands after {prompt}")
    return value


class DataSpec(Strict):
    """What is trained on and what is evaluated on."""

    train: TrainData
    """The training set."""
    loss: EvaluationData
    """The set for the cross-entropy loss."""
    generation: GenerationData | None = None
    """The set for the accuracy; none means that no answers are generated."""
    test: FinalData | None = None
    """A set that only the base model and the winner are scored on; none by default."""
    template: Annotated[str, AfterValidator(_layout)] = "auto"
    """How prompt and completion become one text: `chat` (the tokenizer's chat
    template), `chatml`, `plain` (prompt, separator, completion), `auto` (chat
    where the tokenizer has a template, else plain), `problem-solution`,
    `competition`, `answer`, or a text with {system_prompt}, {prompt},
    {examples}, {completion} and fields of the data."""
    separator: str = "\n"
    """Stands between prompt and completion in a plain template."""
    system_prompt: str | None = None
    """Leads every prompt; an example's own takes its place."""
    few_shot: FewShot | None = None
    """Examples in the prompt; none by default."""
    loss_on: Literal["completion", "assistant", "all"] = "completion"
    """Tokens that are learned and that the loss counts: the last answer, every
    turn of the assistant, or all."""
    max_prompt_tokens: PositiveInt | None = None
    """Longest prompt; a longer one is an error like any other in the data. Not
    with few-shot examples drawn from the training set."""
    on_error: Literal["stop", "drop"] = "stop"
    """What happens at a row that cannot be used: stop, naming file and line, or
    drop it and count it."""
    labels: tuple[str, ...] = ()
    """Fields, such as a level or an origin, by which examples are counted."""
    same: Literal["prompt", "example"] = "prompt"
    """Two examples count as the same, and never lie in two sets, when their
    prompts are equal, or only when their completions are, too."""
    cleaning: Cleaning | None = None
    """Cleaning of the training set's files; none by default."""
    decontamination: Decontamination | None = None
    """Search for evaluation items in the training set; none by default."""
    quality: Quality | None = None
    """A score per example, for training that weighs by it; none by default."""

    @model_validator(mode="after")
    def examples_are_somewhere(self) -> DataSpec:
        """Few-shot examples of the rows' own need a field that holds them."""
        if self.few_shot is None:
            return self
        if self.few_shot.origin == "train" and self.max_prompt_tokens is not None:
            allowed = "none with few-shot examples drawn from the training set"
            raise broken_rule("max_prompt_tokens", repr(self.max_prompt_tokens), allowed)
        sources = self.train.all_sources()
        if self.few_shot.origin == "own" and not all(source.examples for source in sources):
            allowed = "the field with the rows' own examples, which few_shot.origin own needs"
            raise broken_rule("train.examples", "nothing", allowed)
        return self

    @model_validator(mode="after")
    def nothing_is_ignored(self) -> DataSpec:
        """Options that only mean something beside others."""
        if self.separator != "\n" and self.template not in ("auto", "plain"):
            allowed = f"nothing with template {self.template!r}; plain has a separator"
            raise broken_rule("separator", repr(self.separator), allowed)
        if "file" in self.labels:
            raise broken_rule(
                "labels", "'file'", "other names: examples are counted by file anyway"
            )
        if self.test is not None and self.generation is None:
            for name in ANSWERED:
                if (given := getattr(self.test, name)) is not None:
                    allowed = "nothing without a generation set: no answers are generated then"
                    raise broken_rule(f"test.{name}", repr(given), allowed)
        return self

    @model_validator(mode="after")
    def turns_are_told_apart(self) -> DataSpec:
        """A text as template has one place for everything before the answer."""
        if self.loss_on == "assistant" and templates.layout_text(self.template) is not None:
            allowed = "completion or all with a template that is a text"
            raise broken_rule("loss_on", "'assistant'", allowed)
        return self

    def answered_sets(self) -> dict[str, GenerationData]:
        """The sets for which answers are generated, by name."""
        if self.generation is None:
            return {}
        sets = {"generation": self.generation}
        if self.test is not None:
            own = self.test.model_dump(exclude_none=True)
            shared = self.generation.model_dump(include=set(ANSWERED))
            sets["test"] = GenerationData.model_validate({**shared, **own})
        return sets

    def evaluation_sets(self) -> dict[str, EvaluationData]:
        """The evaluation sets there are, by name."""
        sets = {"loss": self.loss, "generation": self.generation, "test": self.test}
        return {name: part for name, part in sets.items() if part is not None}
