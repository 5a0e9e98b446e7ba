"""How long a row a model can read."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from workers.trial.failures import InvalidTrial

MOST_SPARE = 2
"""Rows of a table of positions that stand for none; OPT has two."""


def require_positions(model: PreTrainedModel, row: int) -> None:
    """Raise InvalidTrial for rows of more tokens than a model has learned positions.

    Looking up a position that is not in the table fails on a CPU, and on a
    GPU takes the process with it. Computed positions have no end.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and row > most and _has_table(model, most):
        raise InvalidTrial(
            f"training.max_length: given rows of {row} tokens; allowed: at most {most}, the "
            f"positions that {type(model).__name__} has learned"
        )


def _has_table(model: PreTrainedModel, positions: int) -> bool:
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    words = model.get_input_embeddings()
    sizes = {table.num_embeddings for table in tables if table is not words}
    return not sizes.isdisjoint(range(positions, positions + MOST_SPARE + 1))
