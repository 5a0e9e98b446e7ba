"""The command `hpo`. Heavy imports stay inside the commands."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer

from hpo.cli import doctor, run, status, study, worker
from hpo.spec.errors import HpoError

app = typer.Typer(
    help="Hyperparameter search for supervised fine-tuning of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.add_to(app)
status.add_to(app)
doctor.add_to(app)
app.add_typer(study.app, name="study")
app.add_typer(worker.app, name="worker")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command like Ctrl-C: cleanly, with its servers."""
    raise KeyboardInterrupt


def main() -> None:
    """Run a command; an error that is meant for a person ends it with code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except HpoError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
