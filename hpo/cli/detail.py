"""How one trial looks in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpo.cli.values import (
    decoding,
    interval,
    new_table,
    number,
    parameter_value,
    shortened,
    verdict_words,
    with_interval,
)
from hpo.results.detail import TrialDetail, seconds
from hpo.results.pairs import natural
from hpo.search.graded import in_order
from storage.records import EvaluationRecord

Result = Mapping[str, Any]
PHASES = ("load", "generate", "grade", "switch", "loss")


def head_lines(detail: TrialDetail) -> Iterator[str]:
    """What the trial is, and what became of it."""
    trial = detail.trial
    if trial is None:
        yield f"study {detail.study}, base model"
        return
    reason = f": {trial.reason}" if trial.reason else ""
    yield f"study {detail.study}, trial {trial.number}: {trial.state.lower()}{reason}"
    for name, value in trial.parameters.items():
        yield f"  {name}: {parameter_value(value)}"
    for attempt in detail.attempts:
        # One attempt that went well is no news.
        if len(detail.attempts) > 1 or attempt.outcome not in (None, "finished"):
            message = f": {attempt.message}" if attempt.message else ""
            yield f"attempt {attempt.fence}: {attempt.outcome or 'running'}{message}"
    for warning in trial.warnings:
        yield f"! batch {warning['step']}: {warning['name']}: {warning['message']}"


def evaluation_table(detail: TrialDetail, console: Console) -> Table:
    """All evaluations, the one that is looked at with a star."""
    columns = ("batch", "examples", "loss", "accuracy", "cut", "rung", "seconds", *PHASES)
    table = new_table(console, *columns)
    for record in detail.evaluations:
        star = " *" if _is_shown(detail, record) else ""
        result = record.result or {}
        spent = seconds(result)
        cells = [
            f"{record.step}{star}",
            str(record.examples),
            number(result.get("loss")) if record.result else record.state,
            with_interval(result),
            number(result.get("truncated")),
            _rung(detail, record),
            *(f"{spent[name]:.2f}" if name in spent else "" for name in ("total", *PHASES)),
        ]
        table.add_row(*map(Text, cells))
    return table


def failure_lines(detail: TrialDetail) -> Iterator[str]:
    """Why evaluations failed."""
    for record in detail.evaluations:
        if record.error is not None:
            yield f"batch {record.step}: {record.error}"


def result_lines(result: Result) -> Iterator[str]:
    """What is known of one evaluation besides its tables."""
    if result.get("reason"):
        yield str(result["reason"])
    yield f"loss {number(result.get('loss'))}, perplexity {number(result.get('perplexity'))}" + (
        f", {result['loss_tokens']} tokens" if "loss_tokens" in result else ""
    )
    if result.get("accuracy") is not None:
        yield _accuracy(result)
    for name, value in sorted((result.get("measures") or {}).items()):
        yield f"{name} {number(value)}"
    memory = result.get("memory") or {}
    if memory:
        yield f"memory: {memory['name']} ({memory['reason']})"


def result_tables(result: Result, console: Console) -> Iterator[Table]:
    """Loss by length, answers by category, accuracy by field."""
    if result.get("loss_by_length"):
        yield _length_table(result, console)
    if result.get("categories"):
        yield _category_table(result, console)
    for name, values in sorted((result.get("by") or {}).items()):
        yield _breakdown_table(name, values, console)


def _accuracy(result: Result) -> str:
    line = (
        f"accuracy {with_interval(result)}, {result.get('correct')} of {result.get('total')} items"
    )
    how = decoding(result)
    cut = result.get("truncated")
    line += f", {how}" if how else ""
    if cut is not None:
        line += f"; {cut} of {result.get('answers_total')} answers reached the limit of tokens"
    return line


def _length_table(result: Result, console: Console) -> Table:
    table = new_table(console, "tokens", "examples", "counted", "loss")
    before = 0
    for part in result["loss_by_length"]:
        longest = part["longest"]
        span = f"more than {before}" if longest is None else f"{before + 1} to {longest}"
        before = longest or before
        table.add_row(span, str(part["examples"]), str(part["tokens"]), number(part["loss"]))
    return table


def _category_table(result: Result, console: Console) -> Table:
    table = new_table(console, "answers", "number", "share")
    counts = result["categories"]
    total = sum(counts.values())
    for name in in_order(counts):
        share = f"{counts[name] / total:.1%}" if total else ""
        table.add_row(Text(name.replace("_", " ")), str(counts[name]), share)
    return table


def _breakdown_table(name: str, values: Mapping[str, Result], console: Console) -> Table:
    table = new_table(console, shortened(name, 40), "items", "accuracy", "interval")
    for value in sorted(values, key=natural):
        part = values[value]
        ends = interval(part.get("accuracy_low"), part.get("accuracy_high"))
        cells = (
            shortened(value, 60),
            number(part.get("total")),
            number(part.get("accuracy")),
            ends,
        )
        table.add_row(*map(Text, cells))
    return table


def _is_shown(detail: TrialDetail, record: EvaluationRecord) -> bool:
    shown = detail.shown
    return shown is not None and shown.record.step == record.step


def _rung(detail: TrialDetail, record: EvaluationRecord) -> str:
    verdict = detail.verdict(record)
    if verdict is not None:
        return verdict_words(verdict)
    return "" if record.rung is None else f"at {record.rung}"
