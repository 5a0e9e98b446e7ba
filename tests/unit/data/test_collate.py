from __future__ import annotations

import pytest
import torch

from workers.data.batches.collate import collate, collate_packed
from workers.data.tokens.encoded import EncodedExample

CPU = torch.device("cpu")
PAD = 257
DIALOGUE = EncodedExample((10, 11, 12, 13, 14), ((1, 2), (3, 5)), 0.5)
WHOLE = EncodedExample((20, 21), ((0, 2),))


def test_padding_and_labels() -> None:
    padded = collate([DIALOGUE, WHOLE], pad_id=PAD, device=CPU)
    assert padded.input_ids.tolist() == [[10, 11, 12, 13, 14], [20, 21] + [PAD] * 3]
    assert padded.attention_mask is not None
    assert padded.attention_mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert padded.labels.tolist() == [[-100, 11, -100, 13, 14], [-100, 21, -100, -100, -100]]
    assert padded.weights.tolist() == [[0, 0.5, 0, 0.5, 0.5], [0, 1, 0, 0, 0]]
    assert padded.position_ids is None
    assert (padded.counted, padded.weighted) == (4, 2.5)
    assert padded.documents.tolist() == [[0] * 5, [1, 1, -1, -1, -1]]
    assert padded.members == (0, 1)
    assert padded.examples == (DIALOGUE, WHOLE)
    assert padded.input_ids.dtype == padded.labels.dtype == padded.documents.dtype == torch.int64


def test_packed_documents_stand_side_by_side() -> None:
    packed = collate_packed([DIALOGUE, WHOLE], [[1, 0], [1, 1]], pad_id=PAD, device=CPU)
    assert packed.input_ids.tolist() == [
        [20, 21, 10, 11, 12, 13, 14],
        [20, 21, 20, 21] + [PAD] * 3,
    ]
    assert packed.attention_mask is None
    assert packed.position_ids is not None
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 4], [0, 1, 0, 1, 0, 1, 2]]
    assert packed.labels.tolist() == [
        [-100, 21, -100, 11, -100, 13, 14],
        [-100, 21, -100, 21, -100, -100, -100],
    ]
    assert packed.counted == 6
    assert packed.weighted == pytest.approx(4.5)
    assert int((packed.labels != -100).sum()) == packed.counted
    assert packed.weights.sum() == pytest.approx(packed.weighted)
    assert packed.documents.tolist() == [[0, 0, 1, 1, 1, 1, 1], [2, 2, 3, 3, -1, -1, -1]]
    assert packed.members == (1, 0, 1, 1)
    assert packed.examples == (WHOLE, DIALOGUE, WHOLE, WHOLE)


def test_a_part_of_a_step_knows_its_place_in_it() -> None:
    part = collate([WHOLE, DIALOGUE], pad_id=PAD, device=CPU, members=[5, 2])
    assert (part.members, part.examples) == ((5, 2), (WHOLE, DIALOGUE))
    assert part.documents.tolist() == [[0, 0, -1, -1, -1], [1] * 5]


def test_rows_as_wide_as_asked_for() -> None:
    padded = collate([WHOLE], pad_id=PAD, device=CPU, width=4)
    assert padded.input_ids.tolist() == [[20, 21, PAD, PAD]]
    assert padded.documents.tolist() == [[0, 0, -1, -1]]
    packed = collate_packed([WHOLE, DIALOGUE], [[0, 1]], pad_id=PAD, device=CPU, width=9)
    assert packed.position_ids is not None
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 4, 0, 1]]
    assert (packed.labels[0, 7:] == -100).all()
    with pytest.raises(ValueError, match="at least the longest row's 7, not 6"):
        collate_packed([WHOLE, DIALOGUE], [[0, 1]], pad_id=PAD, device=CPU, width=6)
