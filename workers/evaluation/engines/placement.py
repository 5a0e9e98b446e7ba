"""Where the weights lie: how the two engines of a device come by them and share its memory.

One class for each way; nothing else in the room asks which one it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from workers.evaluation.engines.likelihood import Likelihood, LikelihoodModel, LikelihoodViews
from workers.evaluation.engines.weights import WeightSource

if TYPE_CHECKING:
    from workers.evaluation.engines.generation import GenerationEngine


@dataclass(frozen=True)
class Prepared:
    """Verified weights: the base model's or others, with adapters on top or without."""

    weights: WeightSource | None = None
    """None for the base model's."""
    adapters: Sequence[Path] = ()


class Placement(Protocol):
    """Weights into the engines, and memory from one to the other."""

    def put(self, prepared: Prepared) -> None:
        """Have the weights in both engines; several adapters in vLLM alone.

        Raises EngineBroken when vLLM fails on them, CheckpointError when one
        of the two refuses an adapter.
        """

    def put_for_loss(self, prepared: Prepared) -> None:
        """Have the weights, with one adapter at most, where the loss is computed."""

    def to_loss(self) -> None:
        """Leave the memory to the loss."""

    def to_generation(self) -> None:
        """Have vLLM's weights back where they were laid aside."""

    def rebuild(self, sequences: int | None) -> None:
        """A new vLLM engine on the base weights, which decodes so many sequences at a time."""

    def close(self) -> None:
        """Shut vLLM down."""


@dataclass
class LossAlone:
    """Transformers has the device to itself."""

    likelihood: LikelihoodModel

    def put(self, prepared: Prepared) -> None:
        """Have the weights in transformers' model."""
        self.put_for_loss(prepared)

    def put_for_loss(self, prepared: Prepared) -> None:
        """Have the weights in transformers' model."""
        _fill(self.likelihood, prepared)
        _attach(self.likelihood, prepared)

    def to_loss(self) -> None:
        """There is no vLLM."""

    def to_generation(self) -> None:
        """There is no vLLM."""

    def rebuild(self, sequences: int | None) -> None:
        """There is no vLLM."""

    def close(self) -> None:
        """There is no vLLM."""


@dataclass
class OneCopy:
    """Transformers reads vLLM's own tensors: what vLLM has, it has."""

    likelihood: LikelihoodViews
    generation: GenerationEngine

    def put(self, prepared: Prepared) -> None:
        """Have the weights in vLLM, where transformers' model reads them."""
        self._fill(prepared)
        for adapter in prepared.adapters:
            self.generation.add_adapter(adapter)
        _attach(self.likelihood, prepared)

    def put_for_loss(self, prepared: Prepared) -> None:
        """As `put`, but adapters in transformers' model alone."""
        self._fill(prepared)
        _attach(self.likelihood, prepared)

    def to_loss(self) -> None:
        """Nothing has to move."""

    def to_generation(self) -> None:
        """Nothing has to move."""

    def rebuild(self, sequences: int | None) -> None:
        """Build vLLM anew and read the new one's tensors."""
        # The old tensors would else stay in memory beside the new ones.
        self.likelihood.release()
        self.generation.rebuild(sequences)
        self.likelihood.follow(self.generation.module)

    def close(self) -> None:
        """Shut vLLM down, whose tensors transformers' model then has no more."""
        self.likelihood.release()
        self.generation.close()

    def _fill(self, prepared: Prepared) -> None:
        self.likelihood.detach()
        if prepared.weights is None:
            self.generation.reload_base(None)
        else:
            self.generation.reload(prepared.weights, base=False)
        self.likelihood.follow(self.generation.module)


@dataclass
class TwoCopies:
    """Each engine has weights of its own; vLLM takes them from transformers' model."""

    likelihood: LikelihoodModel
    generation: GenerationEngine
    level: Literal[1, 2] | None
    """At which vLLM sleeps while the loss is computed; None where there is room for both."""

    def put(self, prepared: Prepared) -> None:
        """Read the weights once, into transformers' model, and hand them on."""
        _fill(self.likelihood, prepared)
        if prepared.weights is None:
            self.generation.reload_base(self.likelihood.tensors)
        else:
            self.generation.reload(self.likelihood.tensors, base=False)
        for adapter in prepared.adapters:
            self.generation.add_adapter(adapter)
        _attach(self.likelihood, prepared)

    def put_for_loss(self, prepared: Prepared) -> None:
        """Have the weights in transformers' model; vLLM stays as it is."""
        _fill(self.likelihood, prepared)
        _attach(self.likelihood, prepared)

    def to_loss(self) -> None:
        """Put vLLM to sleep where the two do not fit together."""
        if self.level is not None:
            self.generation.sleep(self.level)

    def to_generation(self) -> None:
        """Wake vLLM from level 1. From level 2 its next weights wake it."""
        self.generation.wake()

    def rebuild(self, sequences: int | None) -> None:
        """Build vLLM anew."""
        self.generation.rebuild(sequences)

    def close(self) -> None:
        """Shut vLLM down."""
        self.generation.close()


def _fill(likelihood: LikelihoodModel, prepared: Prepared) -> None:
    """The weights, bare, into a model with tensors of its own."""
    if prepared.weights is None:
        likelihood.load_base()
    else:
        likelihood.load(prepared.weights())


def _attach(likelihood: Likelihood, prepared: Prepared) -> None:
    # Several are answered together, but each has its own loss.
    if len(prepared.adapters) == 1:
        likelihood.attach(prepared.adapters[0])
