"""The data section: what is trained on and what is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from hpo.spec import templates
from hpo.spec.base import (
    NonNegativeInt,
    NotBoolean,
    PositiveFloat,
    PositiveInt,
    Strict,
    TwoOrMore,
    broken_rule,
)

Share = Annotated[float, Field(gt=0, lt=1), NotBoolean]
Similarity = Annotated[float, Field(gt=0, le=1), NotBoolean]
Format = Literal["auto", "prompt-completion", "messages", "text", "alpaca", "sharegpt", "dialogue"]
Path = Annotated[str, Field(min_length=1)]
FieldValue = str | int | float | bool


FIELDS_OF_ALL = ("prompt", "completion", "messages", "text")
FIELDS_OF: dict[str, set[str]] = {
    "prompt-completion": {"prompt", "completion"},
    "dialogue": {"prompt", "completion"},
    "messages": {"messages"},
    "sharegpt": {"messages"},
    "text": {"text"},
    "alpaca": set(),
}
"""Which fields a format reads; `auto` decides by them."""


def _field_or_text(value: str) -> str:
    if templates.is_text(value):
        templates.fields(value)
    return value


FieldOrText = Annotated[str, Field(min_length=1), AfterValidator(_field_or_text)]
"""The name of a field, or a text with fields in braces."""


class Source(Strict):
    """Where rows come from, and which of their fields are meant.

    A path is a file (`.jsonl`, `.json`, `.csv`, `.parquet`; `.gz` on top of
    the first three), a folder for the library datasets, or a `datasets` name
    (`name`, `name:config`).
    """

    path: Path | None = None
    """A file, a folder or a `datasets` name."""
    split: str = "train"
    """Split of a `datasets` name; a file has none."""
    records: list[str] | None = None
    """Keys of a JSON file under which its records lie, when it is no list
    itself: a list of records, or a mapping whose values are the records."""
    where: Mapping[str, FieldValue | list[FieldValue]] = {}
    """Only rows whose fields have these values, or one of those listed."""
    format: Format = "auto"
    """How a row is read; `auto` looks at the fields of the first row."""
    prompt: FieldOrText | None = None
    """Field that holds the prompt, or a text with fields in braces; `prompt`
    by default, for evaluation sets what the training set says."""
    completion: FieldOrText | None = None
    """Field that holds the completion, or a text with fields in braces;
    `completion` by default. A list of texts makes an example of each."""
    messages: str | None = None
    """Field that holds the list of turns; `messages` by default,
    `conversations` for sharegpt."""
    text: str | None = None
    """Field that holds a plain text; `text` by default."""
    system: str | None = None
    """Field that holds a system prompt of the example's own."""
    examples: str | None = None
    """Field with the example's own input and output pairs, for few-shot prompts."""
    samples: PositiveInt | None = None
    """Use this many rows from the start; all of them by default."""

    @model_validator(mode="after")
    def names_fit_the_format(self) -> Source:
        """A name that the format does not ask for would be ignored."""
        for name in sorted({*FIELDS_OF_ALL} - FIELDS_OF.get(self.format, {*FIELDS_OF_ALL})):
            if getattr(self, name) is not None:
                given = repr(getattr(self, name))
                raise broken_rule(name, given, f"nothing with format {self.format}")
        return self


class WeightedSource(Source):
    """One of several sources of the training set."""

    path: Path
    """A file, a folder or a `datasets` name."""
    weight: PositiveFloat = 1.0
    """How often an example of it is seen per epoch: 2 is twice, 0.5 half of them."""


class TrainData(Source):
    """Examples to train on, and the names of their fields."""

    path: Path | None = None
    """A file (JSONL, JSON, CSV, Parquet), a folder or a `datasets` name."""
    sources: Annotated[list[WeightedSource], Field(min_length=1)] | None = None
    """Several files instead of one `path`, each with a weight and, where they
    differ, field names of its own."""

    @model_validator(mode="after")
    def one_origin(self) -> TrainData:
        """A path, or sources."""
        if (self.path is None) == (self.sources is None):
            given = "nothing" if self.path is None else "a path and sources"
            raise broken_rule("path", given, "either a path or a list of sources")
        # What the sources take over must fit them.
        self.all_sources()
        return self

    def all_sources(self) -> list[WeightedSource]:
        """Every source with the fields that it leaves open filled in from here.

        A field that has its default value is open, whether it was written or not.
        """
        shared = self.model_dump(exclude={"path", "sources"}, exclude_defaults=True)
        if self.sources is None:
            return [WeightedSource(path=str(self.path), **shared)]
        return [_completed(source, shared) for source in self.sources]


def _completed(source: WeightedSource, shared: dict[str, Any]) -> WeightedSource:
    """A source with what it leaves open; a format of its own has no use for other names."""
    read = FIELDS_OF.get(source.format, {*FIELDS_OF_ALL})
    useless = {*FIELDS_OF_ALL} - read
    taken = {name: value for name, value in shared.items() if name not in useless}
    return WeightedSource.model_validate(taken | source.model_dump(exclude_defaults=True))


class EvaluationData(Source):
    """An evaluation set, frozen per study and the same for every trial."""

    path: Path | None = None
    """A file, a folder or a `datasets` name; the training set's own by default,
    from which `where` or `fraction` then takes a part."""
    split: str = "test"
    """Split of a `datasets` name; a file has none."""
    fraction: Share | None = None
    """Hold this share of the training set out; only without a path."""
    seed: NonNegativeInt = 0
    """Draws what `fraction` holds out. Sets with the same seed hold out the
    same examples."""

    @model_validator(mode="after")
    def some_part(self) -> EvaluationData:
        """A part of the training set must be named."""
        if self.path is None and self.fraction is None and not self.where:
            raise broken_rule(
                "path", "nothing", "a path, or a part of the training set: where or fraction"
            )
        if self.fraction is not None:
            self._require_nothing_besides()
        elif self.seed != 0:
            raise broken_rule("seed", repr(self.seed), "nothing without a fraction, which it draws")
        if self.path is None:
            self._require_the_same_prompts()
        return self

    def _require_the_same_prompts(self) -> None:
        """A part of the training set is told from the rest of it by its prompts."""
        for name in ("records", "prompt", "messages", "text"):
            given = getattr(self, name)
            if given is not None:
                allowed = f"nothing without a path: the training set's {name} counts"
                raise broken_rule(name, repr(given), allowed)
        if self.format != "auto":
            allowed = "nothing without a path: the training set's format counts"
            raise broken_rule("format", repr(self.format), allowed)

    def _require_nothing_besides(self) -> None:
        """What is held out is drawn from the whole training set."""
        for name, given in (("path", self.path), ("where", self.where)):
            if given:
                raise broken_rule("fraction", f"{name} besides", f"{name} or fraction, not both")


Task = Literal["exact", "numeric", "math"]


class GenerationData(EvaluationData):
    """The set on which answers are generated and graded."""

    task: Task = "exact"
    """How an answer is graded: `exact` compares the stripped text, `numeric`
    the last number, `math` with math-verify."""
    max_new_tokens: PositiveInt = 512
    """Most tokens of an answer."""


class FinalData(EvaluationData):
    """A set that is scored once for the base model and for the winner."""

    task: Task | None = None
    """How an answer is graded; as in the generation set by default."""
    max_new_tokens: PositiveInt | None = None
    """Most tokens of an answer; as in the generation set by default."""


class NearDuplicates(Strict):
    """Finds texts that share most of their word sequences (MinHash)."""

    threshold: Similarity = 0.8
    """Jaccard similarity from which two examples count as the same."""
    words: PositiveInt = 5
    """Length of the word sequences that are compared."""
    permutations: Annotated[int, Field(ge=16, le=1024), NotBoolean] = 128
    """Length of a signature; four bytes each per example."""


class Cleaning(Strict):
    """Which examples of the training set are not used, and what is put in order.

    Steps are taken in the order of these fields. Each counts what it drops.
    """

    broken_encoding: bool = True
    """Drop texts with replacement characters, control characters or the marks
    of a wrong decoding."""
    code_blocks: bool = False
    """Put fences of code blocks in order: backticks, a language, closed at the end."""
    min_characters: PositiveInt | None = None
    """Drop an example one of whose texts (prompt, completion) is shorter."""
    max_characters: PositiveInt | None = None
    """Drop an example whose texts are longer together."""
    incomplete: bool = False
    """Drop a completion that holds '...' and is shorter than `incomplete_characters`."""
    incomplete_characters: PositiveInt = 100
    """Length from which '...' in a completion is taken for meant."""
    min_tokens: PositiveInt | None = None
    """Drop an example with fewer tokens, prompt and template included."""
    max_tokens: PositiveInt | None = None
    """Drop an example with more tokens, prompt and template included."""
    exact_duplicates: bool = True
    """Drop an example whose texts are those of an earlier one, but for case,
    white space and Unicode form."""
    near_duplicates: NearDuplicates | None = None
    """Drop an example that is almost an earlier one; not looked for by default."""
    evaluation: bool = False
    """Clean evaluation sets with files of their own, too. What is held out of
    the training set's files always is."""


class Decontamination(Strict):
    """Looks for evaluation items in the training set (n-gram overlap)."""

    words: TwoOrMore = 13
    """Length of the word sequences that are compared."""
    overlap: Similarity = 0.5
    """Share of an item's word sequences in a training example from which the
    example holds the item."""
    action: Literal["drop", "report"] = "drop"
    """Drop such examples, or only report them."""


class FieldQuality(Strict):
    """A quality score that the data brings."""

    type: Literal["field"]
    field: str
    """Field with a number from 0 to 1."""


class ComputedQuality(Strict):
    """A quality score of our own: the mean of its parts, each from 0 to 1."""

    type: Literal["computed"]
    parts: Annotated[
        tuple[Literal["length", "completeness", "code", "agreement"], ...], Field(min_length=1)
    ] = ("length", "completeness", "code", "agreement")
    """`length`: neither very short nor very long; `completeness`: no cut-off end;
    `code`: its Python blocks parse; `agreement`: the final answer is the `answer`."""
    answer: str | None = None
    """Field with the known final answer, for `agreement`."""


Quality = Annotated[FieldQuality | ComputedQuality, Field(discriminator="type")]


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
            for name in ("task", "max_new_tokens"):
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
            shared = self.generation.model_dump(include={"task", "max_new_tokens"})
            sets["test"] = GenerationData.model_validate({**shared, **own})
        return sets

    def evaluation_sets(self) -> dict[str, EvaluationData]:
        """The evaluation sets there are, by name."""
        sets = {"loss": self.loss, "generation": self.generation, "test": self.test}
        return {name: part for name, part in sets.items() if part is not None}
