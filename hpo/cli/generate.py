"""`hpo data generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    spec: Annotated[Path, typer.Argument(help="A YAML file; see docs/generate.md.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Let a model write responses for prompts, as training data.

    Human responses in the data are kept apart, template-like and repeated
    ones are refused. Ctrl-C stops; run again, it goes on where it was.
    """
    from hpo.launch.generation import run_generation
    from hpo.launch.home import variables
    from hpo.spec.generate import load_generate

    loaded = load_generate(str(spec), variables())
    try:
        found = run_generation(loaded, device)
    except KeyboardInterrupt:
        print("stopped; run the same command again, and it goes on where it was", flush=True)
        raise typer.Exit(130) from None
    if not found:
        print("no response was accepted: see refused.jsonl in the output folder")
        raise typer.Exit(1)
