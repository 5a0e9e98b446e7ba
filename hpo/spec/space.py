"""The search space: a training section in which ranges and choices may stand.

    learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
    effective_batch_size: {choices: [16, 32]}
    method: {choices: [{type: full}, {type: lora, rank: {choices: [8, 16]}}]}

A parameter is named by its dotted path below `training`. A choice whose
options hold parameters of their own makes them conditional: they are named
after the option (`method.lora.rank`) and exist only where it was drawn. An
option is called by its value or its type; a mapping beside null is called `on`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hpo.spec.errors import Problem
from hpo.spec.problems import describe, known_keys
from hpo.spec.training.config import TrainingConfig

Scalar = str | int | float | bool | None
RANGE_KEYS = ("low", "high", "log", "step")
BROKEN = object()
"""Stands where a range or choices could not be parsed; no field accepts it."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Choices:
    """Options with the labels under which they are sampled."""

    labels: tuple[Scalar, ...]
    options: tuple[Any, ...]

    def option(self, label: Scalar) -> Any:
        """The option behind a label."""
        return self.options[self.labels.index(label)]


@dataclass(frozen=True)
class Parameter:
    """One searched parameter as it is sampled."""

    name: str
    path: str
    node: Range | Choices
    integer: bool
    """Whether a range holds whole numbers only."""


Draw = Callable[[Parameter], Scalar]


class SearchSpace:
    """A parsed training section; `resolve` makes a plain config of it."""

    def __init__(self, tree: Mapping[str, Any], integers: frozenset[str] = frozenset()) -> None:
        self._tree = tree
        self._integers = integers

    @staticmethod
    def parse(section: Any, path: str = "training") -> tuple[SearchSpace | None, list[Problem]]:
        """Parse a training section; the space is None where there are problems."""
        space, problems = SearchSpace._parsed(section, path)
        if space is not None:
            problems = space._contradictions(path)
        return (None, problems) if problems else (space, [])

    @staticmethod
    def _parsed(section: Any, path: str) -> tuple[SearchSpace | None, list[Problem]]:
        """A section of which no two values together were tried yet."""
        if not isinstance(section, Mapping):
            return None, [Problem(path, repr(section), "a mapping")]
        problems: list[Problem] = []
        tree = _parse(section, path, problems)
        probed, integers = SearchSpace(tree)._probe(path)
        problems += [found for found in probed if not _told(found, problems)]
        return (None, problems) if problems else (SearchSpace(tree, integers), [])

    @staticmethod
    def of(section: Mapping[str, Any]) -> SearchSpace:
        """Parse a section that was validated before; its pairs are not tried again.

        Raises ValueError where it does have problems.
        """
        space, problems = SearchSpace._parsed(section, "training")
        if space is None:
            raise ValueError("; ".join(problem.line("training") for problem in problems))
        return space

    def resolve(self, draw: Draw) -> TrainingConfig:
        """Put a drawn value in the place of every range and choice."""
        return TrainingConfig.model_validate(self._fill(draw))

    def parameters(self) -> list[Parameter]:
        """Every parameter, conditional ones included, in order of appearance."""
        found: dict[str, Parameter] = {}
        for _, seen in self._corners():
            found.update({parameter.name: parameter for parameter in seen})
        return list(found.values())

    def configs(self) -> Iterator[TrainingConfig]:
        """Plain configurations that take each end of each range and each option once."""
        for tree, _ in self._corners():
            yield TrainingConfig.model_validate(tree)

    def extremes(self, path: str) -> list[Any]:
        """The values a field takes at the corners of the space."""
        values: list[Any] = []
        for config in self.configs():
            value = _lookup(config, path)
            if value not in values:
                values.append(value)
        return values

    def _fill(self, draw: Draw) -> dict[str, Any]:
        filled = _fill(self._tree, "", "", draw, self._integers)
        assert isinstance(filled, dict)
        return filled

    def _corners(self) -> Iterator[tuple[dict[str, Any], list[Parameter]]]:
        """Fillings that take each end of each range and each option once.

        Others stand at their first value meanwhile, except the options that
        a conditional parameter needs.
        """
        for forced in self._forced():
            seen: list[Parameter] = []
            yield self._fill(_first_or(forced, seen)), seen

    def _forced(self) -> Iterator[dict[str, Scalar]]:
        """What stands, by name, where it is not the first value: at each corner once."""
        queue: list[dict[str, Scalar]] = [{}]
        tried: set[tuple[str, Scalar]] = set()
        while queue:
            forced = queue.pop(0)
            yield forced
            seen: list[Parameter] = []
            self._fill(_first_or(forced, seen))
            for parameter in seen:
                for value in _ends(parameter.node):
                    if (parameter.name, value) not in tried and parameter.name not in forced:
                        tried.add((parameter.name, value))
                        queue.append({**forced, parameter.name: value})

    def _probe(self, path: str) -> tuple[list[Problem], frozenset[str]]:
        """Validate the corners; find out which ranges hold whole numbers."""
        problems: dict[Problem, None] = {}
        integers: set[str] = set()
        for tree, seen in self._corners():
            config, found = _validated(tree, path)
            problems.update(dict.fromkeys(found))
            if config is not None:
                integers |= {p.name for p in seen if isinstance(_lookup(config, p.path), int)}
        broken = list(problems) or self._uneven(integers, path)
        return broken, frozenset(integers)

    def _contradictions(self, path: str) -> list[Problem]:
        """What two drawn values, each fine with the others' first values, do to each other."""
        problems: dict[Problem, None] = {}
        for tree in self._pairs():
            problems.update(dict.fromkeys(_validated(tree, path)[1]))
        return list(problems)

    def _pairs(self) -> Iterator[dict[str, Any]]:
        """Fillings that take each two ends or options of different parameters together."""
        forced = list(self._forced())
        for first, second in itertools.combinations(forced, 2):
            if all(second.get(name, value) == value for name, value in first.items()):
                yield self._fill(_first_or({**first, **second}, []))

    def _uneven(self, integers: set[str], path: str) -> list[Problem]:
        """Whole-number ranges need whole ends."""
        return [
            Problem(f"{path}.{p.path}", _spelled(p.node), "whole numbers")
            for p in self.parameters()
            if p.name in integers and isinstance(p.node, Range) and not _whole(p.node)
        ]


def _validated(tree: dict[str, Any], path: str) -> tuple[TrainingConfig | None, list[Problem]]:
    """A filled tree as a configuration, or what is wrong with it."""
    try:
        return TrainingConfig.model_validate(tree), []
    except ValidationError as error:
        return None, describe(error, TrainingConfig, tree, path)


def _told(found: Problem, problems: list[Problem]) -> bool:
    """Whether a field's trouble follows from a broken range that was told."""
    return any(f"{told.path}.".startswith(f"{found.path}.") for told in problems)


def _spelled(node: Range) -> str:
    step = f" in steps of {node.step}" if node.step is not None else ""
    return f"{node.low} to {node.high}{step}"


def _whole(node: Range) -> bool:
    return all(float(n).is_integer() for n in (node.low, node.high, node.step or 1))


def _first_or(forced: Mapping[str, Scalar], seen: list[Parameter]) -> Draw:
    def draw(parameter: Parameter) -> Scalar:
        seen.append(parameter)
        return forced.get(parameter.name, _ends(parameter.node)[0])

    return draw


def _ends(node: Range | Choices) -> tuple[Scalar, ...]:
    return node.labels if isinstance(node, Choices) else (node.low, node.high)


def _lookup(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part, None)
    return config


def _fill(node: Any, name: str, path: str, draw: Draw, integers: frozenset[str]) -> Any:
    if isinstance(node, Range):
        return draw(Parameter(name, path, node, name in integers))
    if isinstance(node, Choices):
        label = draw(Parameter(name, path, node, False))
        return _fill(node.option(label), f"{name}.{label}", path, draw, integers)
    if isinstance(node, Mapping):
        return {
            key: _fill(child, _join(name, key), _join(path, key), draw, integers)
            for key, child in node.items()
        }
    return node


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _parse(node: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(node, Mapping):
        return node
    if "choices" in node:
        return _parse_choices(node, path, problems)
    if {"low", "high"} & set(node):
        return _parse_range(node, path, problems)
    return {str(key): _parse(child, _join(path, key), problems) for key, child in node.items()}


def _parse_range(node: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
    before = len(problems)
    for key in sorted(set(node) - set(RANGE_KEYS), key=str):
        allowed = known_keys(str(key), RANGE_KEYS)
        problems.append(Problem(f"{path}.{key}", "an unknown key", allowed))
    for key in ("low", "high"):
        if not _is_number(node.get(key)):
            given = repr(node[key]) if key in node else "nothing"
            problems.append(Problem(f"{path}.{key}", given, "a number"))
    if not isinstance(node.get("log", False), bool):
        problems.append(Problem(f"{path}.log", repr(node["log"]), "true or false"))
    if len(problems) > before:
        return BROKEN
    found = Range(node["low"], node["high"], node.get("log", False), node.get("step"))
    problems.extend(_range_problems(found, path))
    return found


def _range_problems(node: Range, path: str) -> Iterator[Problem]:
    if node.low > node.high:
        yield Problem(path, f"low {node.low} above high {node.high}", "low at most high")
    if node.log and node.low <= 0:
        yield Problem(f"{path}.low", f"{node.low} with log", "a number above 0 on a log scale")
    if node.step is not None and (not _is_number(node.step) or node.step <= 0):
        yield Problem(f"{path}.step", repr(node.step), "a number above 0")
    if node.step is not None and node.log:
        yield Problem(f"{path}.step", f"{node.step} with log", "step or log, not both")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value == value and abs(value) != float("inf")


def _parse_choices(node: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
    for key in sorted(set(node) - {"choices"}, key=str):
        problems.append(Problem(f"{path}.{key}", "an unknown key", "choices alone"))
    options = node["choices"]
    if not isinstance(options, list) or not options:
        problems.append(Problem(f"{path}.choices", repr(options), "a list of one option or more"))
        return BROKEN
    parsed = tuple(
        _parse(option, f"{path}.choices.{index}", problems) for index, option in enumerate(options)
    )
    labels = tuple(_label(option, index, parsed) for index, option in enumerate(parsed))
    # 1 and 1.0 are the same.
    if len(set(labels)) < len(labels):
        problems.append(Problem(f"{path}.choices", repr(options), "options that differ"))
    return Choices(labels, parsed)


def _label(option: Any, index: int, options: tuple[Any, ...]) -> Scalar:
    if option is None or isinstance(option, str | int | float | bool):
        return option
    if isinstance(option, list):
        return ",".join(str(item) for item in option) or "none"
    if isinstance(option, Mapping) and isinstance(option.get("type"), str):
        kinds = [other.get("type") for other in options if isinstance(other, Mapping)]
        if kinds.count(option["type"]) == 1:
            return str(option["type"])
    if all(other is None for other in options if other is not option):
        return "on"
    return f"option-{index}"
