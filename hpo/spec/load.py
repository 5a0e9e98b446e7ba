"""From a YAML file or the name of a preset to a `StudySpec`.

Every problem of a file is reported at once. `${NAME}` and `${NAME:-default}`
in a text stand for variables: the environment's, and HPO_HOME, which is the
state folder where the environment does not set it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hpo.spec.errors import Problem, SpecError, StudyError
from hpo.spec.ladder import Ladder
from hpo.spec.problems import describe
from hpo.spec.space import SearchSpace
from hpo.spec.study import NoPruner, StudySpec

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, a key stands once."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        # Before merge keys (`<<`) are filled in: what they bring may be overridden.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} a second time", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


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
    problems: list[Problem] = []
    tree = _tree(text, shown, variables, problems)
    if not isinstance(tree, dict):
        raise SpecError(shown, [Problem("", _kind(tree), "a mapping of keys to values")])
    spec, found = _validate(tree)
    unset = {problem.path for problem in problems}
    problems += [problem for problem in found if problem.path not in unset]
    space, found = (
        SearchSpace.parse(tree["training"])
        if isinstance(tree.get("training"), dict)
        else (None, [])
    )
    problems += found
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


def _tree(text: str, shown: str, variables: Mapping[str, str], problems: list[Problem]) -> Any:
    try:
        return _expand(_yaml(text, shown), "", variables, problems)
    except RecursionError:
        given = "lists or mappings nested too deeply, or within themselves"
        raise SpecError(shown, [Problem("", given, "valid YAML")]) from None


def _yaml(text: str, shown: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(shown, [Problem(where, str(error.problem), "valid YAML")]) from error
    except (yaml.YAMLError, ValueError) as error:
        # The parser's own ValueErrors are values such as the date 2024-13-45.
        given = " ".join(str(error).split())
        raise SpecError(shown, [Problem("", given, "valid YAML")]) from error


def _kind(tree: Any) -> str:
    return "an empty file" if tree is None else f"a {type(tree).__name__}"


def _validate(tree: dict[str, Any]) -> tuple[StudySpec | None, list[Problem]]:
    try:
        return StudySpec.model_validate(tree), []
    except ValidationError as error:
        return None, describe(error, StudySpec, tree)


def _expand(node: Any, path: str, variables: Mapping[str, str], problems: list[Problem]) -> Any:
    if isinstance(node, dict):
        return {
            key: _expand(value, f"{path}.{key}" if path else str(key), variables, problems)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_expand(item, f"{path}.{i}", variables, problems) for i, item in enumerate(node)]
    if isinstance(node, str):
        return VARIABLE.sub(lambda match: _value(match, path, variables, problems), node)
    return node


def _value(
    match: re.Match[str], path: str, variables: Mapping[str, str], problems: list[Problem]
) -> str:
    name, default = match["name"], match["default"]
    value = variables.get(name) or default
    if value is None:
        problems.append(
            Problem(path, f"{match[0]}, but {name} is not set", f"set {name} in the environment")
        )
        return ""
    return value
