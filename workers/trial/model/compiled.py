"""Compiled decoder layers, kept from trial to trial."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hpo.spec.errors import InputError
from workers.trial.failures import InvalidTrial

Backend = str | Callable[..., Any]

MOST_VARIANTS = 256
"""Compiled variants of one layer (method, rank, precision ...); torch would go
on uncompiled after 8."""


class LayerCompiler:
    """Compiles each kind of decoder layer once, for all layers and all trials.

    What is compiled is the function behind `forward`, not a module: torch keeps
    its code by what it depends on, which is the same for every layer and for
    trials of one kind.
    """

    def __init__(self, backend: Backend = "inductor") -> None:
        self._backend = backend
        self._forwards: dict[FunctionType, Callable[..., Any]] = {}

    def check(self, device: torch.device) -> None:
        """Raise InputError where nothing can be compiled for this device."""
        probe = torch.compile(lambda values: values.sin() + 1, backend=self._backend)
        try:
            probe(torch.ones(8, device=device))
        except RuntimeError as error:
            raise InputError(
                "training.compute.compile: given true; allowed: false, or a machine where "
                f"torch.compile works (a C++ compiler, Triton on a GPU): {_one_line(error)}"
            ) from error

    @contextmanager
    def applied(self, model: PreTrainedModel) -> Iterator[None]:
        """The model's decoder layers compiled; its structure brings them back.

        Raises InvalidTrial for a model without layers of the common kind.
        """
        layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
        if not layers:
            raise InvalidTrial(
                "training.compute.compile: given true; allowed: false, as "
                f"{type(model).__name__} has no decoder layers that could be compiled"
            )
        for layer in layers:
            layer.forward = MethodType(self._compiled(type(layer).forward), layer)
        limits: dict[str, Any] = {
            "recompile_limit": MOST_VARIANTS,
            "accumulated_recompile_limit": MOST_VARIANTS,
        }
        with torch._dynamo.config.patch(limits):
            yield

    def _compiled(self, forward: Any) -> Callable[..., Any]:
        if forward not in self._forwards:
            compiled = torch.compile(forward, backend=self._backend, dynamic=True)
            self._forwards[forward] = _told(compiled)
        return self._forwards[forward]


def _told(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Say of a layer that does not compile that the option is to blame."""

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return compiled(*arguments, **named)
        except TorchDynamoException as error:
            raise InvalidTrial(
                "training.compute.compile: given true; allowed: false, as torch.compile fails on "
                f"this model: {_one_line(error)}"
            ) from error

    return call


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), 200)
