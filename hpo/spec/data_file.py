"""A file with a data section and no study around it, to prepare data alone."""

from __future__ import annotations

from collections.abc import Mapping

from hpo.spec.base import Strict, TwoOrMore
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
