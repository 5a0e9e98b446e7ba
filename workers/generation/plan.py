"""What is to be generated, read from the sources before anything is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from hpo.spec.errors import InputError
from hpo.spec.generate import GenerateSpec, PromptSource
from workers.data.example import RowProblem, UnusableRow
from workers.data.reading.fields import Row
from workers.data.reading.rows import read_chunks
from workers.generation.prompts import HumanResponse, Prompt, PromptReader


@dataclass
class Rows:
    """What became of the rows that were read.

    `rows` is the sum of all others, but for `human_responses`, of which a row
    may bring several, and `dropped`, which `unusable` sums up.
    """

    rows: int = 0
    prompts: int = 0
    """Rows that responses are generated for."""
    human: int = 0
    """Rows with human responses."""
    same_prompt: int = 0
    """Rows whose prompt, level and system prompt are those of an earlier row."""
    beyond_samples: int = 0
    """Rows past the `samples` of their level."""
    human_responses: int = 0
    dropped: list[str] = field(default_factory=list)
    """A line for each row that could not be used."""

    @property
    def unusable(self) -> int:
        """Rows that could not be used."""
        return len(self.dropped)

    def as_dict(self) -> dict[str, object]:
        """For the report."""
        return {**vars(self), "unusable": self.unusable}


@dataclass
class Plan:
    """Prompts in the order in which they are answered, and what needs no answer."""

    prompts: list[Prompt] = field(default_factory=list)
    humans: list[HumanResponse] = field(default_factory=list)
    rows: Rows = field(default_factory=Rows)


def read_plan(spec: GenerateSpec) -> Plan:
    """Read every source to its end.

    Raises InputError for a source that cannot be read and, where the policy
    is to stop, with the lines of the first rows that cannot be used.
    """
    plan = Plan()
    taken: Counter[str] = Counter()
    seen: set[str] = set()
    for index, source in enumerate(spec.prompts):
        reader = PromptReader(spec, index)
        read = enumerate(_rows(source), start=1)
        wanted = (known for known in read if _is_wanted(reader, known[1][1]))
        for number, (where, row) in islice(wanted, source.samples):
            plan.rows.rows += 1
            try:
                _add(plan, _read(reader, where, number, row), spec, taken, seen)
            except UnusableRow as error:
                plan.rows.dropped.append(error.problem.line())
    if plan.rows.dropped and spec.on_error == "stop":
        raise InputError(_told(plan.rows.dropped))
    if not plan.prompts and not plan.humans:
        raise InputError("prompts: given no row that can be used; allowed: one or more")
    return plan


def _rows(source: PromptSource) -> Iterator[tuple[str, Row | RowProblem]]:
    for chunk in read_chunks(source.path, split=source.split, records=source.records):
        yield from chunk.rows()


def _is_wanted(reader: PromptReader, row: Row | RowProblem) -> bool:
    return isinstance(row, RowProblem) or reader.wanted(row)


def _read(
    reader: PromptReader, where: str, number: int, row: Row | RowProblem
) -> Prompt | list[HumanResponse]:
    if isinstance(row, RowProblem):
        raise UnusableRow(row)
    return reader.read(where, number, row)


def _add(
    plan: Plan,
    found: Prompt | list[HumanResponse],
    spec: GenerateSpec,
    taken: Counter[str],
    seen: set[str],
) -> None:
    rows = plan.rows
    if isinstance(found, list):
        rows.human += 1
        rows.human_responses += len(found)
        plan.humans += found
        return
    most = spec.levels[found.level].samples
    if found.id in seen:
        rows.same_prompt += 1
    elif most is not None and taken[found.level] >= most:
        rows.beyond_samples += 1
    else:
        rows.prompts += 1
        seen.add(found.id)
        taken[found.level] += 1
        plan.prompts.append(found)


SHOWN = 20


def _told(dropped: list[str]) -> str:
    """The first lines of what is wrong, and what can be done about it."""
    more = [f"{len(dropped) - SHOWN} rows more cannot be used"] if len(dropped) > SHOWN else []
    last = "mend the rows, or let such rows be dropped and counted with on_error: drop"
    return "\n".join([*dropped[:SHOWN], *more, last])
