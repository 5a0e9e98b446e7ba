"""What became of a study's data, as lines for a terminal and as Markdown.

Works on the stored report (`workers.data.preparing.report.DataReport.as_dict`), so that
a study is shown where no data is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study

Report = Mapping[str, Any]
BAR = 40
"""Characters of the longest bar of a histogram."""
MOST_VALUES = 12
"""Values of a label that are shown."""


def data_lines(report: Report) -> Iterator[str]:
    """The report: what came in, what was dropped why, what is left."""
    for part in report["sets"]:
        yield from _set_lines(part)
    yield f"data hash {report['hash']}"


def set_line(part: Report) -> str:
    """One set in one line, as it adds up."""
    dropped = sum(part["dropped"].values())
    line = f"data.{part['name']}: {part['examples']} in = {part['kept']} kept"
    line += f" + {dropped} dropped"
    if part["dropped"]:
        line += " (" + ", ".join(f"{n} {_words(r)}" for r, n in part["dropped"].items()) + ")"
    if part["repeated"] != part["kept"]:
        line += f"; {part['repeated']} per epoch by weight"
    return line


def _set_lines(part: Report) -> Iterator[str]:
    yield set_line(part)
    if part["wanted"] != part["rows"]:
        yield f"  {part['wanted']} of {part['rows']} rows wanted"
    yield from _reported_lines(part["reported"])
    for reason, shown in part["shown"].items():
        for lost in shown[:1]:
            yield f"  {_words(reason)}, for example {lost['where']}: {lost['detail']}"
    if part["quality"]:
        low, mean, high = part["quality"]
        yield f"  quality from {low:.2f} to {high:.2f}, {mean:.2f} on average"
    tokens = part["tokens"]
    if tokens is not None:
        yield "  " + _tokens(tokens)
        for cut in tokens["truncation"]:
            if cut["truncated"] or cut["dropped"]:
                yield f"  {_cut(cut, part['kept'])}"


def _reported_lines(reported: Report) -> Iterator[str]:
    if "contaminated" in reported:
        yield f"  {reported['contaminated']} contaminated, kept all the same"
    if reported.get("not compared"):
        yield (
            f"  {reported['not compared']} of {reported['evaluation items']} evaluation items are "
            "too short or too common to be looked for"
        )


def count_lines(part: Report) -> Iterator[str]:
    """Examples by label and value."""
    for label, values in part["counts"].items():
        shown = list(values.items())[:MOST_VALUES]
        more = len(values) - len(shown)
        text = ", ".join(
            f"{value} {count} ({count / max(1, part['kept']):.1%})" for value, count in shown
        )
        yield f"  by {label}: {text}" + (f" and {more} more" if more else "")


def histogram_lines(part: Report) -> Iterator[str]:
    """How many examples have how many tokens."""
    tokens = part["tokens"]
    if tokens is None or not tokens["histogram"]:
        return
    most = max(count for _, count in tokens["histogram"])
    width = len(str(tokens["histogram"][-1][0]))
    before = 0
    for bound, count in tokens["histogram"]:
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        yield f"  {before + 1:>{width}}-{bound:>{width}} tokens {bar} {count}"
        before = bound


def data_markdown(report: Report) -> str:
    """The report as a note for the dashboard."""
    rows = [
        "## Data",
        "",
        "| set | in | kept | dropped | tokens |",
        "|---|---|---|---|---|",
    ]
    for part in report["sets"]:
        dropped = ", ".join(f"{n} {_words(reason)}" for reason, n in part["dropped"].items())
        tokens = part["tokens"]["total"] if part["tokens"] else ""
        rows.append(
            f"| {part['name']} | {part['examples']} | {part['kept']} | {dropped or 0} | {tokens} |"
        )
    shown = [
        f"- {part['name']}, {_words(reason)}: `{lost['where']}` {lost['detail']}"
        for part in report["sets"]
        for reason, losses in part["shown"].items()
        for lost in losses
    ]
    if shown:
        rows += ["", "Dropped, for example:", "", *shown]
    return "\n".join([*rows, "", f"Hash `{report['hash']}`"])


def show_on_dashboard(study: Study, report: Report) -> None:
    """Leave the report as the study's note, and its hash among the attributes."""
    from optuna_dashboard import get_note, save_note

    if study.user_attrs.get("data_hash") == report["hash"]:
        return
    study.set_user_attr("data_hash", report["hash"])
    for part in report["sets"]:
        study.set_user_attr(f"data_{part['name']}", part["kept"])
    # A person's own note stays.
    if not get_note(study):
        save_note(study, data_markdown(report))


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _tokens(tokens: Report) -> str:
    shortest, _, median, _, long, longest = tokens["quantiles"]
    return (
        f"{tokens['total']} tokens, {tokens['learned']} of them learned; per example {shortest} "
        f"to {longest}, {median} in the median, 95 % at most {long}"
    )


def _cut(cut: Report, kept: int) -> str:
    share = (cut["truncated"] + cut["dropped"]) / max(1, kept)
    return (
        f"at {cut['max_length']} tokens: {cut['truncated']} cut, {cut['dropped']} left out "
        f"({share:.1%})"
    )
