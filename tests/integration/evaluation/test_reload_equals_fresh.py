"""Weights put in place score as an engine does that was built on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from evaluation_lab import Lab, ask, closing

if TYPE_CHECKING:
    from evaluation_lab import Dtype

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.parametrize(
    ("tied", "dtype"),
    [
        (True, "float32"),
        (False, "bfloat16"),
        pytest.param(True, "bfloat16", marks=pytest.mark.exhaustive),
        pytest.param(False, "float32", marks=pytest.mark.exhaustive),
    ],
)
def test_reload_equals_a_fresh_engine(tmp_path: Path, tied: bool, dtype: Dtype) -> None:
    lab = Lab(tmp_path, tied=tied, dtype=dtype)
    one, two = lab.full(11), lab.full(12)
    with closing(lab.engines(one.directory)) as engines:
        engines.load_weights(None)
        fresh = ask(engines)
    with closing(lab.engines()) as engines:
        engines.load_weights(None)
        base = ask(engines)
        engines.load_weights(two)
        other = ask(engines)
        assert len({answer for told in (fresh, base, other) for answer in told.tokens}) == 24
        for checkpoint, wanted in ((one, fresh), (two, other), (one, fresh), (None, base)) * 2:
            engines.load_weights(checkpoint)
            assert ask(engines) == wanted
