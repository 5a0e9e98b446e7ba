"""From a YAML file or the name of a preset to a `StudySpec`.

Every problem of a file is reported at once. `${NAME}` and `${NAME:-default}`
in a text stand for variables: the environment's, and HPO_HOME, which is the
state folder where the environment does not set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from hpo.spec.errors import SpecError, StudyError
from hpo.spec.ladder import Ladder
from hpo.spec.rules import contradictions, hoisted
from hpo.spec.space import SearchSpace
from hpo.spec.study import NoPruner, StudySpec
from hpo.spec.tree import read_tree, validate


def preset_names() -> list[str]:
    """Names of the studies that ship with the package."""
    files = resources.files("hpo.presets").iterdir()
    return sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml"))


def is_file_name(study: str) -> bool:
    """Whether STUDY names a file rather than a preset or an existing study."""
    return study.endswith((".yaml", ".yml")) or "/" in study


def study_text(study: str) -> tuple[str, str]:
    """Text and display name of a study file or preset.

    Raises StudyError when there is no such file or preset.
    """
    if is_file_name(study):
        return _read(Path(study)), study
    if study not in preset_names():
        raise StudyError(
            f"given the study {study!r}; allowed: a YAML file or one of the presets "
            f"{', '.join(preset_names())}"
        )
    return resources.files("hpo.presets").joinpath(f"{study}.yaml").read_text(), f"preset {study}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StudyError(f"{path}: the study file cannot be read: {reason}") from error


def load_study(study: str, variables: Mapping[str, str]) -> StudySpec:
    """Read, validate and complete a study file or preset.

    Raises SpecError with every problem found, or StudyError when there is no
    such file or preset.
    """
    text, shown = study_text(study)
    return parse_study(text, shown, variables)


def parse_study(text: str, shown: str, variables: Mapping[str, str]) -> StudySpec:
    """Validate the text of a study file; `shown` names it in messages."""
    tree, problems = read_tree(text, shown, variables)
    tree = hoisted(tree)
    spec, problems = validate(StudySpec, tree, problems)
    space, found = (
        SearchSpace.parse(tree["training"])
        if isinstance(tree.get("training"), dict)
        else (None, [])
    )
    problems += found
    if spec is not None and space is not None:
        problems += contradictions(spec, space)
    if problems or spec is None or space is None:
        raise SpecError(shown, problems)
    return complete(spec, space, shown)


def complete(spec: StudySpec, space: SearchSpace, shown: str) -> StudySpec:
    """Make what follows from other fields explicit: the first rung."""
    if isinstance(spec.pruner, NoPruner) or spec.pruner.min_resource is not None:
        return spec
    every = spec.evaluation.every
    smallest = min(space.extremes("effective_batch_size"))
    first = every.examples if every.examples is not None else (every.batches or 1) * smallest
    pruner = spec.pruner.model_copy(update={"min_resource": first})
    return spec.model_copy(update={"pruner": pruner})


def ladder_of(spec: StudySpec) -> Ladder | None:
    """The study's rungs; None without a pruner.

    The spec must be complete: `min_resource` explicit.
    """
    if isinstance(spec.pruner, NoPruner):
        return None
    if spec.pruner.min_resource is None:
        raise ValueError("pruner.min_resource is not resolved")
    return Ladder(spec.pruner.min_resource, spec.pruner.reduction_factor)
