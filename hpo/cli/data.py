"""`hpo data prepare|stats|inspect|generate`."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli.generate import generate
from hpo.cli.options import Json, local

if TYPE_CHECKING:
    from rich.text import Text

    from workers.data.example import Example
    from workers.data.preparing.prepared import PreparedData
    from workers.data.tokens.encoder import Encoder

app = typer.Typer(help="Prepare, count, look at or generate a study's data.", no_args_is_help=True)

File = Annotated[
    str, typer.Argument(help="A study file, a preset, or a file with only a data section.")
]
Set = Annotated[
    str | None,
    typer.Option(
        "--set",
        help="train, loss, generation or test. Default: the training set.",
        show_default=False,
    ),
]

app.command()(generate)


@app.command()
def prepare(
    study: File,
    rebuild: Annotated[bool, typer.Option(help="Make it anew, whatever is cached.")] = False,
    json_output: Json = False,
) -> None:
    """Read, clean, split and tokenise the data, and report what became of it.

    The result is cached: trials, workers and later runs share it.
    """
    from hpo.launch.data import prepared
    from hpo.results.data import data_lines

    started = time.monotonic()
    data = prepared(study, rebuild=rebuild)
    seconds = time.monotonic() - started
    if json_output:
        print(json.dumps(data.report.as_dict()))
        return
    for line in (*data_lines(data.report.as_dict()), *data.report.warnings()):
        print(local(line))
    print(f"prepared data: {data.folder} ({seconds:.1f} s)")


@app.command()
def stats(study: File) -> None:
    """Count examples by set, label and file, and show how long they are."""
    from hpo.launch.data import prepared
    from hpo.results.data import count_lines, histogram_lines, set_line

    for part in prepared(study).report.as_dict()["sets"]:
        for line in (set_line(part), *count_lines(part), *histogram_lines(part)):
            print(local(line))


@app.command()
def inspect(
    study: File,
    name: Set = None,
    first: Annotated[int, typer.Option(min=0, help="Number of the first one shown.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 3,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show examples that were dropped instead.")
    ] = False,
    tokens: Annotated[bool, typer.Option(help="Show the tokens, too.")] = True,
) -> None:
    """Show examples as they are trained on.

    As text, what is learned in green, and as tokens with their loss mask.
    """
    from rich.console import Console

    from hpo.launch.data import prepared, recipe_of

    data = prepared(study)
    name = _chosen_set(data, name)
    console = Console(soft_wrap=True, highlight=False)
    if dropped:
        _show_dropped(data, name)
        return
    recipe = recipe_of(study)
    encoder = None
    if recipe.tokenizer is not None:
        from workers.data.preparing.survey import load_encoder

        encoder = load_encoder(recipe.tokenizer, recipe.data, data.shots)
    examples = data.examples(name)
    for index in range(first, min(first + count, len(examples))):
        console.print(local(_heading(name, index, len(examples), examples[index])), markup=False)
        for text in _shown(examples[index], encoder, tokens=tokens):
            console.print(text)


def _chosen_set(data: PreparedData, name: str | None) -> str:
    from hpo.spec.errors import InputError

    if name is None:
        return data.names()[0]
    if name not in data.names():
        raise InputError(f"--set: given {name!r}; allowed: {', '.join(data.names())}")
    return name


def _heading(name: str, index: int, total: int, example: Example) -> str:
    known = [f"{label} {value}" for label, value in example.labels.items()]
    if example.quality is not None:
        known.append(f"quality {example.quality:.2f}")
    return " · ".join([f"{name} {index} of {total}", example.where, *known])


def _shown(example: Example, encoder: Encoder | None, *, tokens: bool) -> list[Text]:
    """The example as text and as tokens; what is learned stands out."""
    from rich.text import Text

    if encoder is None:
        return [Text(f"{turn.role}: {turn.content}") for turn in example.turns]
    text = Text()
    for part, learned in encoder.segments(example):
        text.append(part, style="green" if learned else "dim")
    if not tokens:
        return [text]
    encoded = encoder.encode_whole(example)
    numbers = Text(f"{len(encoded.input_ids)} tokens, {encoded.counted} learned: ")
    for position, token in enumerate(encoded.input_ids):
        learned = any(max(1, start) <= position < end for start, end in encoded.learned)
        # Brackets tell them apart where there is no colour.
        word = f"[{token}]" if learned else str(token)
        numbers.append(f"{word} ", style="green" if learned else "dim")
    return [text, numbers]


def _show_dropped(data: PreparedData, name: str) -> None:
    part = data.report.of_set(name)
    for reason, shown in part.shown.items():
        print(f"{reason.replace('_', ' ')}: {part.dropped.get(reason, 0)}")
        for lost in shown:
            print(local(f"  {lost['where']}: {lost['detail']}"))
            if lost["text"]:
                print(f"    {lost['text']}")
    if not part.shown:
        print(f"nothing of {name} was dropped", file=sys.stderr)
