"""From the text of a YAML file to a tree of plain values.

`${NAME}` and `${NAME:-default}` in a text stand for variables. A key that
stands twice is refused, and `1e-4` is a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from hpo.spec.errors import Problem, SpecError
from hpo.spec.problems import describe

VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")

Model = TypeVar("Model", bound=BaseModel)


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


def read_tree(
    text: str, shown: str, variables: Mapping[str, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The mapping that a YAML text holds, and a problem per variable that is not set.

    `shown` names the file in messages. Raises SpecError for a text that is no
    YAML or no mapping.
    """
    problems: list[Problem] = []
    try:
        tree = _expand(_yaml(text, shown), "", variables, problems)
    except RecursionError:
        given = "lists or mappings nested too deeply, or within themselves"
        raise SpecError(shown, [Problem("", given, "valid YAML")]) from None
    if not isinstance(tree, dict):
        raise SpecError(shown, [Problem("", _kind(tree), "a mapping of keys to values")])
    return tree, problems


def validate(
    model: type[Model], tree: dict[str, Any], unset: list[Problem]
) -> tuple[Model | None, list[Problem]]:
    """A tree as a model, None where it cannot be, and every problem.

    `unset` are the problems of `read_tree`: a field is named once.
    """
    try:
        return model.model_validate(tree), unset
    except ValidationError as error:
        named = {problem.path for problem in unset}
        found = describe(error, model, tree)
        return None, [*unset, *(problem for problem in found if problem.path not in named)]


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
