"""Checkpoints on their way into the engines: verified, merged where they must be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from storage.checkpoints import Checkpoint
from workers.evaluation.engines.adapters import Adapter, AdapterLayout
from workers.evaluation.engines.merging import MergedWeights
from workers.evaluation.engines.placement import Prepared
from workers.evaluation.engines.weights import Layout, read_tensors, verify_full

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Preparer:
    """Verifies checkpoints against the base model; touches no engine."""

    base: Callable[[], PreTrainedModel]
    """Reads a copy of the base model, on the CPU."""
    layout: Layout
    adapters: AdapterLayout | None
    """None where vLLM serves no adapters."""
    together: int
    """Adapters that vLLM serves at a time."""

    def prepare(self, checkpoint: Checkpoint | None) -> Prepared:
        """A checkpoint, or the base model for None. Raises CheckpointError."""
        if checkpoint is None:
            return Prepared()
        if checkpoint.kind == "full":
            files = verify_full(checkpoint.directory, self.layout)
            return Prepared(partial(read_tensors, files))
        adapter = Adapter.read(checkpoint.directory)
        if self.adapters is None or adapter.must_be_merged(self.adapters):
            return Prepared(MergedWeights(adapter, self.base, self.layout))
        adapter.verify(self.adapters)
        return Prepared(adapters=[adapter.directory])

    def runs(self, checkpoints: Sequence[Checkpoint]) -> Iterator[tuple[list[int], Prepared]]:
        """What vLLM serves at a time, with the indices of its checkpoints.

        Adapters go together, whatever else there is goes alone.
        """
        indices: list[int] = []
        group = Prepared()
        for index, checkpoint in enumerate(checkpoints):
            prepared = self.prepare(checkpoint)
            if not prepared.adapters:
                yield [index], prepared
                continue
            indices.append(index)
            group = Prepared(adapters=[*group.adapters, *prepared.adapters])
            if len(indices) == self.together:
                yield indices, group
                indices, group = [], Prepared()
        if indices:
            yield indices, group
