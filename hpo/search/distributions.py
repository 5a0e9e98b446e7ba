"""From the study file's search space to Optuna's distributions."""

from __future__ import annotations

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo.spec.space import Choices, Parameter


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """The distribution that a parameter is drawn from."""
    node = parameter.node
    if isinstance(node, Choices):
        return CategoricalDistribution(node.labels)
    if parameter.integer:
        step = int(node.step) if node.step is not None else 1
        return IntDistribution(int(node.low), int(node.high), log=node.log, step=step)
    return FloatDistribution(float(node.low), float(node.high), log=node.log, step=node.step)
