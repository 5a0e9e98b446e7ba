"""The search for evaluation items in the training set, over a pool of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hpo.spec.cleaning import Decontamination
from workers.data.cleaning.contamination import Hit, ItemIndex
from workers.data.cleaning.text import joined
from workers.data.example import Example
from workers.data.preparing.parts import Part
from workers.data.preparing.pool import InOrder

BATCH = 4096
"""Examples per task of the pool."""


def decontaminate(part: Part, evaluation: Sequence[Part], spec: Decontamination) -> None:
    """Find training examples that hold an evaluation item; drop or report them."""
    items = [other.take(int(index)) for other in evaluation for index in other.kept]
    index = ItemIndex(items, spec)
    part.reported["evaluation items"] = index.items
    part.reported["not compared"] = index.not_compared
    search = InOrder(partial(ContaminationSearch, index))
    kept = part.kept
    hits: dict[int, Hit] = {}
    start = 0
    for found in search.map(part.gathered.examples.batches(kept, BATCH)):
        hits |= {int(kept[start + place]): hit for place, hit in found.items()}
        start += BATCH
    if spec.action == "report":
        part.reported["contaminated"] = len(hits)
    flags = np.zeros_like(part.alive)
    flags[list(hits)] = True

    def detail(index: int) -> str:
        hit = hits[index]
        return f"holds {hit.share:.0%} of {items[hit.item].where}"

    if spec.action == "drop":
        part.drop("contaminated", flags, detail)


def _everything(example: Example) -> str:
    """Whatever of an example a model may be shown."""
    shots = (text for pair in example.shots for text in pair)
    return "\n".join((joined(example, system=True), *example.fields.values(), *shots))


@dataclass
class ContaminationSearch:
    """Looks for items in lines of examples; lives in a pool's process."""

    index: ItemIndex

    def __call__(self, lines: list[bytes]) -> dict[int, Hit]:
        """Hits by the line's place."""
        hits = self.index.hits([_everything(Example.from_line(line)) for line in lines])
        return {place: hit for place, hit in enumerate(hits) if hit is not None}
