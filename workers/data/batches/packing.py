"""Several short examples in one row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pack(lengths: Sequence[int] | npt.NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Indices of examples in rows of at most `capacity` tokens.

    Best-fit decreasing: from long to short, each into the fullest row that
    has room for it. It needs at most 11/9 of the fewest rows possible, and
    one more (Johnson et al. 1974, doi:10.1137/0203025). Every index comes
    once; an example longer than `capacity` has a row of its own. The same
    lengths give the same rows.
    """
    rows: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)
    # Bit n is set while some row has room for exactly n tokens more.
    rooms = 0
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    for index, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = max(capacity, size), len(rows)
            rows.append([])
        rows[row].append(index)
        if room > size:
            with_room[room - size].append(row)
            rooms |= 1 << room - size
    return rows
