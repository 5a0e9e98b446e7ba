"""How values look in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from unicodedata import category

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpo.search.asha import Verdict

PIPE_WIDTH = 200
"""Characters of a line where nobody's screen sets the width."""
UNTOLD = {
    "not_gradable": "NOT GRADABLE (see the evaluation worker's log)",
    "not_asked": "not asked for (their prompts fill the model's window)",
}
"""Categories that say nothing of the model, though they count as wrong."""
DECODING = ("temperature", "top_p", "samples", "seed", "stop")


def number(value: object) -> str:
    """A value in few characters."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def signed(value: float | None) -> str:
    """A difference in few characters, with its sign."""
    if value is None:
        return ""
    return f"{value:+.4g}" if value else "0"


def percent(share: float | None) -> str:
    """A relative change."""
    return "" if share is None else f"{100 * share:+.3g} %"


def parameter_value(value: object) -> str:
    """A drawn value in few characters, as a study file has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return number(value)


def interval(low: object, high: object) -> str:
    """The ends of an interval, in brackets; nothing where they are not known."""
    if low is None or high is None:
        return ""
    return f"({number(low)} to {number(high)})"


def with_interval(result: Mapping[str, Any]) -> str:
    """An accuracy with its interval."""
    ends = interval(result.get("accuracy_low"), result.get("accuracy_high"))
    return " ".join(filter(None, (number(result.get("accuracy")), ends)))


def scores(result: Mapping[str, Any]) -> str:
    """A loss and an accuracy, and what the accuracy says nothing about."""
    parts = [f"loss {number(result.get('loss'))}"]
    if accuracy := with_interval(result):
        parts.append(f"accuracy {accuracy}")
    counts = result.get("categories") or {}
    parts += [f"{counts[name]} answers {words}" for name, words in UNTOLD.items() if name in counts]
    return ", ".join(parts)


def decoding(result: Mapping[str, Any]) -> str:
    """How the answers were written, in words; empty where it is not known."""
    given = result.get("decoding")
    if not given:
        return ""
    known = {name: value for name, value in given.items() if value not in ((), [], None)}
    longest = known.pop("max_new_tokens", None)
    if known.get("temperature") == 0:
        # Nothing else is drawn then.
        known = {name: known[name] for name in ("stop",) if name in known}
        parts = ["greedy"]
    else:
        parts = []
    parts += [f"{name} {known[name]}" for name in DECODING if name in known]
    return ", ".join(parts if longest is None else [*parts, f"at most {longest} tokens"])


def visible(text: str) -> str:
    """A model's text with what would command a terminal made visible."""
    return "".join(c if _plain(c) else ascii(c)[1:-1] for c in text)


def _plain(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or category(character) == "Zs"


def shortened(text: str, most: int) -> str:
    """A text on one line, its middle left out where it is longer than `most` characters."""
    line = visible(" ".join(text.split()))
    if len(line) <= most:
        return line
    half = (most - 3) // 2
    return f"{line[:half]}...{line[-half:]}"


class Printer:
    """Prints tables and lines, as wide as the screen or wide enough for a pipe."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        wide = None if console.is_terminal else PIPE_WIDTH
        self.console = Console(highlight=False, width=wide)

    def lines(self, lines: Iterable[str]) -> None:
        """Lines as they are, however long."""
        for line in lines:
            # Some would look like markup.
            self.console.print(line, markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table after an empty line."""
        self.console.print()
        self.console.print(table)


def new_table(console: Console, *columns: str) -> Table:
    """A table as all of ours look; without lines in a pipe."""
    table = Table(show_edge=False, pad_edge=False)
    if not console.is_terminal:
        table.box = None
    for column in columns:
        # As it is: a field's name may look like markup.
        table.add_column(Text(column))
    return table


def verdict_words(verdict: Verdict) -> str:
    """What was decided at a rung."""
    word = "goes on" if verdict.keep else "pruned"
    place = f"rank {verdict.rank} of {verdict.competitors} " if verdict.rank else ""
    return f"{place}at {verdict.rung}: {word}"
