"""How often a broken engine is built anew, and how wide."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from storage.checkpoints import CheckpointError
from workers.evaluation.engines.recovery import EngineBroken, EngineUnusable, surviving


class Engine:
    """Fails on the given errors, one after another, then works."""

    def __init__(self, errors: Sequence[Exception], sequences: int = 8) -> None:
        self.errors = list(errors)
        self.sequences = sequences
        self.tried = 0
        self.built: list[int | None] = []

    def work(self) -> None:
        self.tried += 1
        if self.errors:
            raise EngineBroken(self.errors.pop(0))

    def rebuild(self, sequences: int | None) -> None:
        self.built.append(sequences)
        self.sequences = sequences or self.sequences

    def prove(self) -> None:
        if self.errors:
            raise EngineBroken(self.errors.pop(0))

    def survive(self) -> None:
        surviving(self.work, self.rebuild, lambda: self.sequences, self.prove)


def test_a_broken_engine_is_built_anew_once() -> None:
    engine = Engine([ValueError("half")])
    engine.survive()
    assert (engine.tried, engine.built) == (2, [None])


def test_the_second_failure_is_the_checkpoints() -> None:
    engine = Engine([ValueError("half"), KeyError("more")])
    with pytest.raises(CheckpointError, match="failed twice on verified weights: KeyError: 'more'"):
        engine.survive()
    # Another engine stands ready for the next checkpoint.
    assert (engine.tried, engine.built) == (2, [None, None])


def test_a_lack_of_memory_is_answered_by_a_narrower_engine() -> None:
    engine = Engine([torch.OutOfMemoryError("full")] * 3)
    engine.survive()
    assert (engine.tried, engine.built) == (4, [4, 2, 1])


def test_an_engine_that_cannot_be_narrower_fails_twice_at_most() -> None:
    engine = Engine([torch.OutOfMemoryError("full")] * 3, sequences=2)
    with pytest.raises(CheckpointError, match="OutOfMemoryError: full"):
        engine.survive()
    assert (engine.tried, engine.built) == (3, [1, None, None])


def test_an_engine_that_fails_on_the_base_model_too_blames_no_checkpoint() -> None:
    engine = Engine([ValueError("one"), ValueError("two"), ValueError("three")])
    with pytest.raises(EngineUnusable, match="fails on the base model too: ValueError: three"):
        engine.survive()
    assert (engine.tried, engine.built) == (2, [None, None])


def test_other_errors_pass() -> None:
    def fail() -> None:
        raise KeyError("callback")

    with pytest.raises(KeyError):
        surviving(fail, lambda sequences: None, lambda: 8, lambda: None)
