"""Where examples come from: sources, field names, and the sets that are made of them."""

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
    broken_rule,
)
from hpo.spec.tasks import Decoding, ExactTask, Task

Share = Annotated[float, Field(gt=0, lt=1), NotBoolean]
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


class GenerationData(EvaluationData):
    """The set on which answers are generated and graded."""

    task: Task = ExactTask()
    """How an answer is graded: a name (`exact`, `normalised`, `numeric`, `math`,
    `choice`, `code`, `program`, `text`), or a mapping with `type` and the task's options."""
    max_new_tokens: PositiveInt = 512
    """Most tokens of an answer; longer ones are cut and counted."""
    decoding: Decoding = Decoding()
    """How answers are written; greedily by default."""
    by: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Fields, such as a difficulty or a level, by whose values the accuracy is broken down."""


class FinalData(EvaluationData):
    """A set that is scored once for the base model and for the winner."""

    task: Task | None = None
    """How an answer is graded; as in the generation set by default."""
    max_new_tokens: PositiveInt | None = None
    """Most tokens of an answer; as in the generation set by default."""
    decoding: Decoding | None = None
    """How answers are written; as in the generation set by default."""
    by: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Fields by whose values the accuracy is broken down; as in the generation set by default."""


ANSWERED = ("task", "max_new_tokens", "decoding", "by")
"""What a generation set says of its answers, and a test set takes over."""
