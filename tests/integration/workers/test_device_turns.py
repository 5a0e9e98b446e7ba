"""What a worker does with its turns of a device: give, wait, keep, lay down, lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from storage.database import Database
from storage.turns import Turn
from workers import turns as module
from workers.stop import StopRequested
from workers.turns import DeviceTurns, TurnLost, Turns

pytestmark = pytest.mark.postgres

DOING = "training"


@dataclass
class Party:
    """One process's turns, and what it did about them."""

    turn: Turn
    free: int = 0
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turns = DeviceTurns(
            self.turn,
            "cuda:0",
            show=self.done.append,
            lay_down=lambda: self.done.append("laid down"),
            free=lambda: self.free,
        )

    def ready(self) -> bool:
        return self.turns.ready(DOING)


@pytest.fixture
def party(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Party]]:
    # Both parties are in one thread: a wait that lasts would only cost time.
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    made: list[Party] = []

    def make() -> Party:
        made.append(Party(Turn(database, "the device")))
        return made[-1]

    yield make
    for one in made:
        one.turns.close()


def cut(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'hpo-turn' AND datname = current_database()"
            )
        )


def test_a_device_of_ones_own_is_always_ready() -> None:
    turns = Turns()
    assert turns.ready(DOING)
    turns.rest()
    assert not turns.disturbed()
    with turns.mine(DOING, lambda: None) as progress:
        progress()


def test_training_gives_the_device_away_and_gets_it_back(party: Callable[[], Party]) -> None:
    trainer, evaluator = party(), party()
    assert all(trainer.ready() for _ in range(3))
    waited = 0

    def progress() -> None:
        nonlocal waited
        waited += 1
        # The trainer comes to its next step, and sees who waits.
        assert not trainer.ready()

    with evaluator.turns.mine("scoring", progress):
        assert waited == 1
        assert trainer.done == ["laid down", "waiting for its turn on cuda:0"]
        assert evaluator.done == ["waiting for its turn on cuda:0", "scoring"]
        assert not trainer.ready()
    assert evaluator.done[2:] == ["laid down"]
    assert trainer.ready()
    assert trainer.done[2:] == [DOING], "people are shown what goes on"


def test_what_waits_is_done_in_one_turn(party: Callable[[], Party]) -> None:
    trainer, evaluator = party(), party()
    for left in (2, 1, 0):
        with evaluator.turns.mine("scoring", lambda: None, waiting=lambda: 2):
            assert not trainer.ready()
        assert trainer.ready() is (left == 0)


def test_an_engine_that_nobody_disturbs_stays_awake(party: Callable[[], Party]) -> None:
    evaluator = party()
    for _ in range(3):
        with evaluator.turns.mine("scoring", lambda: None):
            pass
        evaluator.turns.rest()
    assert evaluator.done == []
    trainer = party()
    assert not trainer.ready()
    evaluator.turns.rest()
    assert trainer.ready()
    # From now on somebody else is known to be there.
    trainer.turns.rest()
    with evaluator.turns.mine("scoring", lambda: None):
        pass
    assert evaluator.done == ["laid down"]
    evaluator.turns.rest()
    assert evaluator.done == ["laid down"] * 2


def test_an_engine_is_laid_down_before_the_cache_is_emptied(party: Callable[[], Party]) -> None:
    trainer, evaluator = party(), party()
    with evaluator.turns.mine("building", lambda: None):
        evaluator.turns.before_rest(lambda: evaluator.done.append("asleep"))
        assert not trainer.ready()
    assert evaluator.done == ["asleep", "laid down"]


def test_work_ends_when_its_turn_is_lost_and_is_done_anew(
    party: Callable[[], Party], database: Database
) -> None:
    evaluator = party()

    def score() -> None:
        with evaluator.turns.mine("scoring", lambda: None) as progress:
            progress()
            cut(database)
            progress()

    with pytest.raises(TurnLost, match="cuda:0 was lost"):
        score()
    assert evaluator.done == ["laid down"]
    assert evaluator.turns.disturbed()
    with evaluator.turns.mine("scoring", lambda: None) as progress:
        progress()
    assert not evaluator.turns.disturbed()


def test_training_stops_between_two_steps_when_its_turn_is_lost(
    party: Callable[[], Party], database: Database
) -> None:
    trainer = party()
    assert trainer.ready()
    cut(database)
    assert trainer.turns.disturbed()
    assert trainer.ready(), "nobody else wanted it"
    assert trainer.done == ["laid down"]


def test_a_stop_is_seen_while_waiting(party: Callable[[], Party]) -> None:
    trainer, evaluator = party(), party()
    assert trainer.ready()

    def stop() -> None:
        raise StopRequested

    with pytest.raises(StopRequested), evaluator.turns.mine("scoring", stop):
        pytest.fail("the device is not free")
    evaluator.turns.close()
    assert all(trainer.ready() for _ in range(3))
    assert trainer.done == []


def test_what_fails_gives_the_device_back(party: Callable[[], Party]) -> None:
    trainer, evaluator = party(), party()

    def score() -> None:
        with evaluator.turns.mine("scoring", lambda: None):
            assert not trainer.ready()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        score()
    assert trainer.ready()


def test_a_turn_begins_when_the_memory_is_back(
    party: Callable[[], Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, other = party(), party()
    trainer.free = 10 << 30
    assert trainer.ready()
    assert not other.ready()
    assert not trainer.ready()
    assert other.ready()
    trainer.free = 2 << 30
    monkeypatch.setattr(trainer.turns, "_free", _growing(trainer.free, 10 << 30))
    other.turns.rest()
    assert trainer.ready()
    assert trainer.turns._free() == 10 << 30


def test_a_turn_begins_without_memory_that_does_not_come_back(
    party: Callable[[], Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOM_SECONDS", 0.1)
    trainer, other = party(), party()
    trainer.free = 10 << 30
    assert trainer.ready()
    assert not other.ready()
    assert not trainer.ready()
    trainer.free = 2 << 30
    other.turns.rest()
    assert trainer.ready()


def _growing(first: int, last: int) -> Callable[[], int]:
    told = iter([first, first])
    return lambda: next(told, last)
