"""How two evaluations side by side look in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpo.cli.graded import changed_lines
from hpo.cli.values import (
    decoding,
    new_table,
    number,
    percent,
    shortened,
    signed,
    with_interval,
)
from hpo.results.answers import GradedAnswers
from hpo.results.comparison import Accuracy, Comparison
from hpo.results.pairs import Pair
from hpo.statistics.paired import PairedDifference

SMALLEST_P = 1e-300


def head_lines(comparison: Comparison, study: str) -> Iterator[str]:
    """What is compared."""
    record = comparison.after.record
    where = "test set" if record.test else "generation set"
    if comparison.accuracy is None:
        yield f"study {study}: no answers are graded, the loss alone is compared"
        return
    how = decoding(record.result or {})
    yield f"study {study}, {where}: {comparison.accuracy.items} items" + (f", {how}" if how else "")


def tables(comparison: Comparison, console: Console) -> Iterator[Table]:
    """Scores, categories and breakdowns, both sides in each."""
    yield _score_table(comparison, console)
    counts = comparison.counts()
    if counts:
        yield _pair_table(comparison, console, "answers", counts)
    for name, values in comparison.breakdown().items():
        yield _pair_table(comparison, console, f"accuracy by {shortened(name, 40)}", values)


def difference_lines(accuracy: Accuracy) -> Iterator[str]:
    """The change of the accuracy, and how sure it is."""
    found = accuracy.difference
    line = f"accuracy {signed(found.difference)} (95 % {_ends(found)}, paired bootstrap)"
    if accuracy.share.relative is not None:
        line += f", {percent(accuracy.share.relative)} relative"
    yield line
    same = accuracy.items - len(accuracy.improved) - len(accuracy.worsened)
    better, worse = _change_words(accuracy)
    line = f"{len(accuracy.improved)} items {better}, {len(accuracy.worsened)} {worse}"
    if accuracy.test is not None:
        line += f" (McNemar's exact p {_p_value(accuracy.test.p_value)})"
    yield f"{line}; {same} as before"


def item_lines(
    comparison: Comparison,
    before: GradedAnswers | None,
    after: GradedAnswers | None,
    most: int | None,
) -> Iterator[str]:
    """The items that changed, so many of each kind at most; all of them for None."""
    accuracy = comparison.accuracy
    if accuracy is None:
        return
    better, worse = _change_words(accuracy)
    for what, changes in ((better, accuracy.improved), (worse, accuracy.worsened)):
        shown = changes[:most]
        if not shown:
            continue
        part = "" if len(shown) == len(changes) else f", {len(shown)} of {len(changes)}"
        yield ""
        yield f"{what}{part}:"
        for change in shown:
            yield from changed_lines(comparison, change, before, after)


def _change_words(accuracy: Accuracy) -> tuple[str, str]:
    if accuracy.test is None:
        return "became better", "became worse"
    return "became right", "became wrong"


def _score_table(comparison: Comparison, console: Console) -> Table:
    table = _titled(comparison, console, "")
    accuracy = comparison.accuracy
    if accuracy is not None:
        sides = (comparison.before, comparison.after)
        cells = [with_interval(side.record.result or {}) for side in sides]
        found = accuracy.difference
        table.add_row("accuracy", *cells, f"{signed(found.difference)} ({_ends(found)})")
    for name, pair in comparison.scores().items():
        table.add_row(*_row(name, pair))
    if comparison.truncated().difference is not None:
        table.add_row(*_row("cut answers", comparison.truncated()))
    return table


def _pair_table(
    comparison: Comparison, console: Console, title: str, pairs: Mapping[str, Pair]
) -> Table:
    table = _titled(comparison, console, title)
    for name, pair in pairs.items():
        table.add_row(*_row(name.replace("_", " "), pair))
    return table


def _titled(comparison: Comparison, console: Console, title: str) -> Table:
    sides = (comparison.before.name, comparison.after.name)
    return new_table(console, title, *sides, "difference")


def _row(name: str, pair: Pair) -> list[Text]:
    cells = (shortened(name, 60), number(pair.before), number(pair.after), signed(pair.difference))
    return [Text(cell) for cell in cells]


def _ends(found: PairedDifference) -> str:
    return f"{signed(found.low)} to {signed(found.high)}"


def _p_value(value: float) -> str:
    return "below 1e-300" if value < SMALLEST_P else f"{value:.2g}"
