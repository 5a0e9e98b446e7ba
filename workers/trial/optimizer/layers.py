"""Where in a decoder a parameter sits, read from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

EMBEDDINGS = re.compile(r"wte|wpe|(?!.*out)(.*_)?emb.*")
"""GPT-2 says wte and wpe, all others something with emb; embed_out is an output layer."""
IN_A_LIST = re.compile(r"(?P<list>.+?)\.(?P<index>\d+)\.")
"""The first numbered list in a name; later ones, as of experts, are inside a layer."""


@dataclass(frozen=True)
class DecoderLayers:
    """The numbered list of modules that hold a decoder's layers."""

    count: int
    """Layers, counted to the topmost that was seen."""

    @classmethod
    def among(cls, names: Iterable[str]) -> DecoderLayers | None:
        """The one numbered list that parameters' names show, such as `model.layers`.

        None for no list or several.
        """
        counts: dict[str, int] = {}
        for name in names:
            if found := IN_A_LIST.match(name):
                prefix, index = found["list"], int(found["index"])
                counts[prefix] = max(counts.get(prefix, 0), index + 1)
        if len(counts) != 1:
            return None
        return cls(*counts.values())

    def below_output(self, name: str) -> int:
        """Layers between a parameter and the output.

        0 for the output layer and what else lies above the decoder layers
        (final norm), 1 for the topmost decoder layer, count + 1 for embeddings.
        """
        found = IN_A_LIST.match(name)
        if found:
            return self.count - int(found["index"])
        return self.count + 1 if is_embedding(name) else 0

    def hold(self, name: str) -> bool:
        """Whether a parameter is part of a decoder layer."""
        return IN_A_LIST.match(name) is not None


def is_embedding(name: str) -> bool:
    """Whether a parameter belongs to embeddings of tokens or positions.

    An output layer that is tied to them goes by their name.
    """
    return any(EMBEDDINGS.fullmatch(part) for part in name.split("."))
