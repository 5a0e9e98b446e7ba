"""A file with a data section and no study around it, to prepare data alone."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import model_validator

from hpo.spec.base import Strict, TwoOrMore, broken_rule
from hpo.spec.data import DataSpec
from hpo.spec.errors import SpecError
from hpo.spec.load import parse_study, study_text
from hpo.spec.study import ModelSpec, StudySpec
from hpo.spec.tree import read_tree, validate


class DataFile(Strict):
    """What is to be prepared, and for which tokenizer."""

    data: DataSpec
    """As in a study file."""
    model: ModelSpec | None = None
    """Its tokenizer is used; without one the examples stay texts."""
    max_length: TwoOrMore | None = None
    """Tokens per example for which truncation is counted."""

    @model_validator(mode="after")
    def tokens_are_counted(self) -> DataFile:
        """A limit in tokens needs a tokenizer."""
        cleaning = self.data.cleaning
        limits = {
            "max_length": self.max_length,
            "data.max_prompt_tokens": self.data.max_prompt_tokens,
            "data.cleaning.min_tokens": cleaning and cleaning.min_tokens,
            "data.cleaning.max_tokens": cleaning and cleaning.max_tokens,
        }
        needing = [name for name, limit in limits.items() if limit is not None]
        if self.model is None and needing:
            allowed = f"a model, whose tokenizer {' and '.join(needing)} need"
            raise broken_rule("model", "nothing", allowed)
        return self


def load_data(file: str, variables: Mapping[str, str]) -> StudySpec | DataFile:
    """Read a study file or preset, or a file that has only a data section.

    Raises SpecError with every problem found, or StudyError when there is no
    such file or preset.
    """
    text, shown = study_text(file)
    tree, problems = read_tree(text, shown, variables)
    if "data" not in tree or {"objective", "training", "budget"} & set(tree):
        return parse_study(text, shown, variables)
    spec, problems = validate(DataFile, tree, problems)
    if problems or spec is None:
        raise SpecError(shown, problems)
    return spec
