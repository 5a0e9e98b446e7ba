"""The file of `hpo data generate`: which model writes which responses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hpo.spec.base import (
    NonNegativeFloat,
    NonNegativeInt,
    NotBoolean,
    PositiveFloat,
    PositiveInt,
    Strict,
    broken_rule,
)
from hpo.spec.checks import Checks, SmallShare, Text
from hpo.spec.cleaning import Similarity
from hpo.spec.errors import InputError, SpecError
from hpo.spec.sources import FieldOrText, FieldValue
from hpo.spec.tree import read_tree, validate


class Writer(Strict):
    """The model that writes."""

    path: Text
    """Local folder or hub name."""
    revision: str | None = None
    """Branch, tag or commit of a hub name; its main branch by default."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type in which the model is served."""


class PromptSource(Strict):
    """Where prompts come from, and which fields of a row are meant."""

    path: Text
    """A file (JSONL, JSON, CSV, Parquet), a folder or a `datasets` name."""
    split: str = "train"
    """Split of a `datasets` name; a file has none."""
    records: list[str] | None = None
    """Keys of a JSON file under which its records lie, when it is no list itself."""
    where: Mapping[str, FieldValue | list[FieldValue]] = {}
    """Only rows whose fields have these values, or one of those listed."""
    format: Literal["text", "dialogue", "messages"] = "text"
    """What the prompt's field holds: `text`; `dialogue`, texts of two sides in
    turn, the last one the learner's; `messages`, turns with role and content."""
    prompt: FieldOrText = "prompt"
    """Field that holds the prompt, or a text with fields in braces."""
    response: str | None = None
    """Field that holds human responses, a text or a list of them. A row that has
    one is kept as human, and nothing is generated for it."""
    level: str | None = None
    """Field that holds the level."""
    fixed_level: str | None = None
    """The level of every row, instead of a field."""
    samples: PositiveInt | None = None
    """Use this many rows from the start; all of them by default."""

    @model_validator(mode="after")
    def one_level(self) -> PromptSource:
        """A field or a value."""
        if self.level is not None and self.fixed_level is not None:
            raise broken_rule(
                "fixed_level", "a level besides", "level (a field) or fixed_level, not both"
            )
        return self


class Level(Strict):
    """How responses of one level are asked for and sampled."""

    system_prompt: str | None = None
    """Leads every prompt of the level; a row's own system turn takes its place."""
    max_new_tokens: PositiveInt = 256
    """Most tokens of a response."""
    temperature: NonNegativeFloat = 0.7
    """0 is greedy: a refused response is then not tried again, it would be the same."""
    top_p: Similarity = 1.0
    """Share of the probability that tokens are drawn from."""
    top_k: PositiveInt | None = None
    """Number of the likeliest tokens that are drawn from; all by default."""
    min_p: SmallShare = 0.0
    """Least probability of a token, relative to the likeliest one's."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, tokens that stood before become less likely."""
    stop: list[Text] = Field(default=[])
    """Texts that end a response and are not part of it."""
    samples: PositiveInt | None = None
    """Generate for this many prompts of the level, from the start; all by default."""


class Engine(Strict):
    """Sizes of the engine; all but `max_model_len` may change between runs."""

    batch: PositiveInt = 64
    """Responses that are generated at a time, and at most lost by a crash."""
    kv_cache_mib: PositiveInt | None = None
    """MiB of vLLM's key-value cache; found by vLLM on a GPU, 1024 on a CPU."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1), NotBoolean] = 0.9
    """Share of a GPU's memory that vLLM may use."""
    max_model_len: PositiveInt | None = None
    """Most tokens of a prompt and its response; the model's own limit by default."""


class GenerateSpec(Strict):
    """One model writes responses for prompts."""

    model: Writer
    prompts: Annotated[list[PromptSource], Field(min_length=1)]
    """Where prompts come from, in this order."""
    levels: Annotated[dict[str, Level], Field(min_length=1)]
    """System prompt and sampling settings by level."""
    default_level: str | None = None
    """Level of a row that names none."""
    output: Text
    """Folder that is written to."""
    seed: NonNegativeInt = 0
    """Every response has a seed of its own, made of this, its prompt and its attempt."""
    attempts: PositiveInt = 3
    """How often a response is tried, each time with another seed, until one is accepted."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """`chat` is the tokenizer's chat template; `plain` is system prompt and
    prompt, a blank line between turns; `auto` is chat where there is a template."""
    separator: str = "\n"
    """Stands between prompt and response in a plain template."""
    checks: Checks = Checks()
    on_error: Literal["stop", "drop"] = "stop"
    """What happens at a row that cannot be used: stop, naming file and line, or
    drop it and count it."""
    engine: Engine = Engine()

    @field_validator("levels", mode="before")
    @classmethod
    def names_are_text(cls, value: object) -> object:
        """YAML reads a bare number as a number."""
        if not isinstance(value, dict):
            return value
        return {str(key) if type(key) is int else key: level for key, level in value.items()}

    @model_validator(mode="after")
    def levels_are_known(self) -> GenerateSpec:
        """Every level that is named has its settings."""
        allowed = f"one of the levels {', '.join(self.levels)}"
        if self.default_level is not None and self.default_level not in self.levels:
            raise broken_rule("default_level", repr(self.default_level), allowed)
        for index, source in enumerate(self.prompts):
            fixed = source.fixed_level
            if fixed is not None and fixed not in self.levels:
                raise broken_rule(f"prompts.{index}.fixed_level", repr(fixed), allowed)
            if fixed is None and source.level is None and self.default_level is None:
                raise broken_rule(
                    f"prompts.{index}", "no level", "level (a field), fixed_level or default_level"
                )
        return self

    def attempts_at(self, level: str) -> int:
        """How often a response of a level is tried."""
        return self.attempts if self.levels[level].temperature > 0 else 1


def load_generate(path: str, variables: Mapping[str, str]) -> GenerateSpec:
    """Read and validate a file for `hpo data generate`.

    Raises SpecError with every problem found, InputError when the file cannot
    be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the file cannot be read: it is not UTF-8 text") from error
    tree, unset = read_tree(text, path, variables)
    spec, problems = validate(GenerateSpec, tree, unset)
    if problems or spec is None:
        raise SpecError(path, problems)
    return spec
