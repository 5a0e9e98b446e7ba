"""The command `hpo`. Heavy imports stay inside the commands."""

from __future__ import annotations

import os
import signal
import stat
import sys
from types import FrameType

import typer

from hpo.cli import compare, data, doctor, run, status, study, trial, worker
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
compare.add_to(app)
doctor.add_to(app)
app.add_typer(study.app, name="study")
app.add_typer(trial.app, name="trial")
app.add_typer(data.app, name="data")
app.add_typer(worker.app, name="worker")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command like Ctrl-C: cleanly, with its servers."""
    raise KeyboardInterrupt


def _hang_up(number: int, frame: FrameType | None) -> None:
    """So does SIGHUP, which a lost terminal sends, often twice."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        # Writing to a terminal that is gone would fail, and end the cleaning up.
        if stat.S_ISCHR(os.fstat(output).st_mode):
            os.dup2(nowhere, output)
    os.close(nowhere)
    raise KeyboardInterrupt


def main() -> None:
    """Run a command; an error that is meant for a person ends it with code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    # nohup has it ignored.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hang_up)
    try:
        app()
    except HpoError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from hpo.launch.outage import is_away, reason

        if not is_away(error):
            raise
        _refuse(f"the database went away: {reason(error)}; run the command again once it is back")


def _refuse(message: str) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
