"""Gates in the database: a worker that comes to a closed one waits there, and can be killed.

Each gate is a trigger before a write that every evaluation makes at a known
moment. It takes a shared advisory lock for an instant; who closes the gate
holds the lock for itself. Another set of triggers counts what must happen once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from storage.database import Database
from storage.workers import PREFIX

LOCKS = 0x7E57
"""First key of the gates' locks; the second is a gate's place in `MOMENTS`."""

PHASE = "UPDATE ON hpo.worker", "NEW.phase LIKE '%: {}'"
ANSWERED = "UPDATE ON hpo.evaluation", "OLD.state = 'claimed' AND NEW.state = 'done'"
MOMENTS: Mapping[str, tuple[str, str]] = {
    "claiming": ("UPDATE ON hpo.evaluation", "OLD.state = 'open' AND NEW.state = 'claimed'"),
    "loading": (PHASE[0], PHASE[1].format("loading the weights")),
    "generating": (PHASE[0], PHASE[1].format("generating")),
    "computing the loss": (PHASE[0], PHASE[1].format("computing the loss")),
    "grading": (PHASE[0], PHASE[1].format("grading")),
    "reporting": ("INSERT ON trial_intermediate_values", "true"),
    "storing": ANSWERED,
    "storing the answers": ("INSERT ON hpo.evaluation_answers", "true"),
}
"""The write that begins each moment of a request, in their order, and the condition on its row."""

SETUP = """
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_lock_shared(TG_ARGV[0]::int, TG_ARGV[1]::int);
    PERFORM pg_advisory_unlock_shared(TG_ARGV[0]::int, TG_ARGV[1]::int);
    RETURN NEW;
END $$;
CREATE TABLE seen (what text, trial_id bigint, step bigint, value float);
CREATE FUNCTION note_report() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES ('report', NEW.trial_id, NEW.step, NEW.intermediate_value);
    RETURN NEW;
END $$;
CREATE FUNCTION note_answer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES ('answer', NEW.trial_id, NEW.step, NULL);
    RETURN NEW;
END $$;
CREATE TRIGGER note_report AFTER INSERT OR UPDATE ON trial_intermediate_values
    FOR EACH ROW EXECUTE FUNCTION note_report();
"""
NOTE_ANSWER = "CREATE TRIGGER note_answer AFTER {} FOR EACH ROW WHEN ({}) "
GATE = "CREATE TRIGGER gate_{} BEFORE {} FOR EACH ROW WHEN ({}) "

WAITING = """
SELECT worker.pid FROM pg_locks
JOIN pg_stat_activity AS session ON session.pid = pg_locks.pid
JOIN hpo.worker AS worker ON session.application_name = :prefix || worker.id
WHERE locktype = 'advisory' AND NOT granted AND classid = :locks AND objid::int = ANY(:gates)
"""


@dataclass
class Gates:
    """The gates of one database; all of them open at first."""

    database: Database
    _holders: dict[str, sa.Connection] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def build(cls, database: Database) -> Iterator[Gates]:
        with database.engine.begin() as connection:
            connection.exec_driver_sql(SETUP)
            call = "EXECUTE FUNCTION note_answer()"
            connection.exec_driver_sql(NOTE_ANSWER.format(*ANSWERED) + call)
            for number, (write, condition) in enumerate(MOMENTS.values()):
                call = f"EXECUTE FUNCTION wait_at_gate({LOCKS}, {number})"
                gate = GATE.format(number, write, condition.replace("%", "%%")) + call
                connection.exec_driver_sql(gate)
        gates = cls(database)
        try:
            yield gates
        finally:
            for moment in [*gates._holders]:
                gates.open(moment)

    def close(self, moment: str) -> None:
        """Let nobody begin this moment."""
        holder = self.database.engine.connect()
        self._lock(holder, "pg_advisory_lock", moment)
        self._holders[moment] = holder

    def open(self, moment: str) -> None:
        """Let everybody go on who waits."""
        holder = self._holders.pop(moment)
        self._lock(holder, "pg_advisory_unlock", moment)
        holder.close()

    def waiting(self, *moments: str) -> set[int]:
        """Process ids of the workers whose sessions wait there, dead ones too."""
        numbers = [[*MOMENTS].index(moment) for moment in moments or MOMENTS]
        values = {"prefix": PREFIX, "locks": LOCKS, "gates": numbers}
        with self.database.engine.connect() as connection:
            return set(connection.scalars(sa.text(WAITING), values))

    def reports(self) -> dict[tuple[int, int], list[float]]:
        """Values that were written to Optuna's trials, by trial and rung."""
        found: dict[tuple[int, int], list[float]] = {}
        for trial_id, step, value in self._seen("report"):
            found.setdefault((trial_id, step), []).append(value)
        return found

    def answers(self) -> Counter[tuple[int | None, int]]:
        """How often a result was stored, by trial and step."""
        return Counter((trial_id, step) for trial_id, step, _ in self._seen("answer"))

    def _seen(self, what: str) -> list[sa.Row[tuple[int, int, float]]]:
        statement = sa.text("SELECT trial_id, step, value FROM seen WHERE what = :what")
        with self.database.engine.connect() as connection:
            return [*connection.execute(statement, {"what": what})]

    def _lock(self, holder: sa.Connection, function: str, moment: str) -> None:
        values = {"locks": LOCKS, "gate": [*MOMENTS].index(moment)}
        holder.execute(sa.text(f"SELECT {function}(:locks, :gate)"), values)
        # The lock belongs to the session; an open transaction would be ended by the server.
        holder.commit()


def first_of(gates: Gates, moment: str, living: set[int], seconds: float = 120) -> int | None:
    """The first of the living workers that comes to a gate; None when none does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        come = living.intersection(gates.waiting(moment))
        if come:
            return min(come)
        time.sleep(0.01)
    return None
