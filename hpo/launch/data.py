"""Prepared data for the commands that show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.launch.home import data_cache, variables
from hpo.launch.inputs import check_model, make_inputs, say
from hpo.spec.data_file import DataFile, load_data
from hpo.spec.identity import absolute_inputs

if TYPE_CHECKING:
    from workers.data.preparing.prepared import PreparedData
    from workers.data.preparing.recipe import Recipe


def recipe_of(file: str) -> Recipe:
    """What a study file, a preset or a data file asks for.

    Raises SpecError, StudyError or InputError.
    """
    from workers.data.preparing.recipe import Recipe

    spec = load_data(file, variables())
    make_inputs(file)
    spec = absolute_inputs(spec)
    if isinstance(spec, DataFile):
        lengths = (spec.max_length,) if spec.max_length is not None else ()
        path = spec.model.path if spec.model is not None else None
        recipe = Recipe(spec.data, path, max_lengths=lengths)
    else:
        recipe = Recipe.of(spec)
    if recipe.tokenizer is not None:
        check_model(recipe.tokenizer)
    return recipe


def prepared(file: str, *, rebuild: bool = False) -> PreparedData:
    """The data of such a file, from the cache or made now; long work is told on stderr."""
    from workers.data.preparing.build import prepare

    return prepare(recipe_of(file), data_cache(), rebuild=rebuild, say=say)
