"""How a study looks in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpo.cli.values import number, parameter_value, percent, scores, signed, verdict_words
from hpo.spec.load import ladder_of
from hpo.spec.space import Choices, Parameter, SearchSpace
from hpo.spec.study import StudySpec

if TYPE_CHECKING:
    from hpo.launch.crew import Display
    from hpo.results.comparison import Difference
    from hpo.results.snapshot import Snapshot, TrialView

COLUMNS = ("batch", "loss", "accuracy", "rank")
"""What is shown of a trial behind its parameters."""
MOST_COLUMNS = 4
"""Parameters that have a column each; more of them share one."""
STYLES = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


class Lines:
    """Shows a study as lines, one per event; for logs and pipes."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, int]] = {}
        self._warned: set[str] = set()
        self._base_shown = False

    def note(self, text: str) -> None:
        """One line about the run itself."""
        print(text, flush=True)

    def update(self, snapshot: Snapshot) -> None:
        """Print what is new."""
        if snapshot.base is not None and not self._base_shown:
            self._base_shown = True
            self.note(f"base model: {scores(snapshot.base)}")
        for trial in snapshot.trials:
            key = (trial.state, len(trial.rungs))
            # A trial that is still being drawn has parameters to come.
            if trial.attempts and self._seen.get(trial.number) != key:
                self._seen[trial.number] = key
                self.note(_event(trial, snapshot))
        for line in warning_lines(snapshot):
            if line not in self._warned:
                self._warned.add(line)
                self.note(line)


class Screen:
    """Shows a study as a table that is drawn anew."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def note(self, text: str) -> None:
        """One line above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    def update(self, snapshot: Snapshot) -> None:
        """Draw the table."""
        self._live.update(render(snapshot), refresh=True)


@contextmanager
def display(terminal: bool) -> Iterator[Display]:
    """A table on a terminal, lines elsewhere."""
    if not terminal:
        yield Lines()
        return
    with Live(console=Console(), auto_refresh=False) as live:
        yield Screen(live)


def render(snapshot: Snapshot) -> RenderableType:
    """A study as a table with its workers and its best trial."""
    counts = ", ".join(f"{n} {state.lower()}" for state, n in snapshot.counts().items() if n)
    head = Text(
        f"{snapshot.name}: {snapshot.state}, {snapshot.ended} of {snapshot.budget} trials"
        + (f" ({counts})" if counts else "")
    )
    workers = [
        Text(f"{worker.kind} worker on {worker.device}: {worker.phase}", style="dim")
        for worker in snapshot.workers
    ]
    lines = [Text(line) for line in best_lines(snapshot)]
    if any(trial.warnings for trial in snapshot.trials):
        lines.append(Text(f"! warnings, told by: hpo study show {snapshot.name}", style="yellow"))
    return Group(head, *workers, _table(snapshot), *lines)


def _table(snapshot: Snapshot) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    names = short_names(_parameter_names(snapshot))
    together = len(names) > MOST_COLUMNS
    for name in ("trial", "state", *(["parameters"] if together else names.values()), *COLUMNS):
        table.add_column(name)
    for trial in snapshot.trials:
        star = " *" if trial.number == snapshot.best else ""
        mark = f" !{len(trial.warnings)}" if trial.warnings else ""
        table.add_row(
            f"{trial.number}{star}{mark}",
            Text(trial.state.lower(), style=STYLES.get(trial.state, "")),
            *map(Text, [_spelled(trial, names)] if together else _cells(trial, names)),
            str(trial.step or ""),
            number(trial.loss),
            number(trial.accuracy),
            # As it is: an error's words may look like markup.
            Text(_place(trial)),
        )
    return table


def _parameter_names(snapshot: Snapshot) -> list[str]:
    names: dict[str, None] = {}
    for trial in snapshot.trials:
        names.update(dict.fromkeys(trial.parameters))
    return list(names)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """For each dotted name the last parts of it that no other one, or column, ends with."""
    taken = [*names, *COLUMNS]
    return {name: _shortest(name, [other for other in taken if other != name]) for name in names}


def _shortest(name: str, others: Sequence[str]) -> str:
    parts = name.split(".")
    for begin in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[begin:])
        if not any(f".{other}".endswith(f".{end}") for other in others):
            return end
    return name


def _cells(trial: TrialView, names: Mapping[str, str]) -> list[str]:
    """A trial's parameters; one that it does not have is an empty cell."""
    drawn = trial.parameters
    return [parameter_value(drawn[name]) if name in drawn else "" for name in names]


def _spelled(trial: TrialView, names: Mapping[str, str]) -> str:
    drawn = trial.parameters.items()
    return ", ".join(f"{names[name]}={parameter_value(value)}" for name, value in drawn)


def best_lines(snapshot: Snapshot) -> list[str]:
    """The best trial and its parameters, beside the base model."""
    lines: list[str] = []
    if snapshot.base is not None:
        lines.append(f"base model: {scores(snapshot.base)}")
    best = snapshot.best_trial()
    if best is not None:
        lines.append(f"best trial: {best.number}, batch {best.best_step}: {scores(vars(best))}")
        lines += against_lines("against the base model", snapshot.against_base)
        lines += [f"  {name}: {parameter_value(value)}" for name, value in best.parameters.items()]
    if snapshot.base_test is not None:
        lines.append(f"test set: base model {scores(snapshot.base_test)}")
    if snapshot.best_test is not None:
        lines.append(f"test set: best trial {scores(snapshot.best_test)}")
    lines += against_lines("test set: against the base model", snapshot.against_base_test)
    return lines


def against_lines(what: str, difference: Difference) -> list[str]:
    """The differences to the base model, if they are known, in one line."""
    if difference is None:
        return []
    loss, accuracy = difference["loss"], difference.get("accuracy")
    parts: list[str] = []
    if loss["difference"] is not None:
        parts.append(f"loss {signed(loss['difference'])} ({percent(loss['relative'])})")
    if accuracy is not None:
        ends = f"{signed(accuracy['low'])} to {signed(accuracy['high'])}"
        parts.append(f"accuracy {signed(accuracy['difference'])} ({ends})")
    return [f"{what}: {', '.join(parts)}"] if parts else []


def warning_lines(snapshot: Snapshot) -> list[str]:
    """What was noticed of the trials' health, a line for each."""
    return [
        f"trial {trial.number}, batch {warning['step']}: {warning['name']}: {warning['message']}"
        for trial in snapshot.trials
        for warning in trial.warnings
    ]


def failure_line(snapshot: Snapshot) -> str:
    """Why no trial was completed, and what to do."""
    reasons = [trial.reason for trial in snapshot.trials if trial.state == "FAIL"]
    if reasons and len(reasons) == len(snapshot.trials):
        return f"no trial was completed: each failed, the last with: {reasons[-1]}"
    return "no trial was completed: widen the search space or raise the budget"


def spec_lines(spec: StudySpec) -> list[str]:
    """A study's specification in a few lines."""
    lines = [
        f"study {spec.name}: {spec.objective.direction} {spec.objective.metric}, "
        f"{spec.budget.trials} trials, sampler {spec.sampler.type}, pruner {spec.pruner.type}"
    ]
    ladder = ladder_of(spec)
    if ladder is not None:
        rungs = [ladder.min_resource * ladder.reduction_factor**k for k in range(3)]
        lines.append(f"rungs at {', '.join(map(str, rungs))}, ... training examples")
    for parameter in SearchSpace.of(spec.training).parameters():
        lines.append(f"  {parameter.name}: {_range(parameter)}")
    return lines


def _range(parameter: Parameter) -> str:
    node = parameter.node
    if isinstance(node, Choices):
        return "one of " + ", ".join(map(parameter_value, node.labels))
    scale = ", log scale" if node.log else ""
    return f"{node.low:g} to {node.high:g}{scale}{', whole' if parameter.integer else ''}"


def _place(trial: TrialView) -> str:
    """The last verdict in few characters, or why there is none."""
    if trial.state == "FAIL" or (trial.reason and not trial.rungs):
        return trial.reason or ""
    if not trial.rungs:
        return ""
    last = trial.rungs[-1]
    return f"{last.rank}/{last.competitors} at {last.rung}" if last.rank else f"at {last.rung}"


def _event(trial: TrialView, snapshot: Snapshot) -> str:
    parameters = ", ".join(f"{n}={parameter_value(v)}" for n, v in trial.parameters.items())
    if trial.state == "RUNNING" and not trial.rungs:
        return f"trial {trial.number} started: {parameters}"
    if trial.state == "RUNNING":
        last = trial.rungs[-1]
        return (
            f"trial {trial.number}: {snapshot.metric} {number(last.value)}, {verdict_words(last)}"
        )
    star = ", the best so far" if trial.number == snapshot.best else ""
    return f"trial {trial.number} {trial.state.lower()}: {trial.reason}{star}"
