"""Looks at a study's inputs before anything is started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.launch.home import data_cache, home
from hpo.launch.tasks import check_graders
from hpo.spec.errors import DeviceError, InputError, OutputError
from hpo.spec.sources import Source
from hpo.spec.study import DEVICE, DEVICE_WORDS, StudySpec

if TYPE_CHECKING:
    from workers.data.preparing.report import DataReport

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
MADE_ON_THE_SPOT = ("quickstart", "gsm8k-tiny")
"""Presets whose tiny model (and arithmetic data) we make ourselves."""


def make_inputs(study: str) -> None:
    """Make what a preset needs and only we can give: a tiny model, sums."""
    folder = home() / "quickstart"
    # The training set is written last.
    if study not in MADE_ON_THE_SPOT or (folder / "data" / "train.jsonl").exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the state folder {home()} cannot be written: {_reason(error)}; "
            "choose another one with HPO_HOME"
        ) from error
    command = [sys.executable, "-m", "workers.tiny", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        last = made.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InputError(f"the tiny model of the preset {study} could not be made: {last[0]}")


def say(text: str) -> None:
    """Tell a person who waits, apart from what a command prints."""
    print(text, file=sys.stderr, flush=True)


def check_inputs(spec: StudySpec) -> DataReport:
    """Look at the model folder and prepare the data, or find it prepared.

    Raises InputError, with a line for each input that is missing or cannot be
    read, and else for what is wrong within the data.
    """
    from workers.data.preparing.build import prepare
    from workers.data.preparing.recipe import Recipe

    check_graders(spec)
    recipe = Recipe.of(spec)
    try:
        check_model(spec.model.path)
        return prepare(recipe, data_cache(), say=say).report
    except InputError:
        # Only now: what is prepared need not be opened again.
        problems = _problems(partial(check_model, spec.model.path), *map(_begin, recipe.sources()))
        if problems:
            raise InputError("\n".join(problems)) from None
        raise


def _problems(*checks: Callable[[], object]) -> list[str]:
    """What the checks that fail say, each once."""
    problems: dict[str, None] = {}
    for check in checks:
        try:
            check()
        except InputError as error:
            problems[str(error)] = None
    return list(problems)


def _begin(source: Source) -> Callable[[], object]:
    """Reads the first rows of a source."""
    from workers.data.reading.rows import read_chunks

    chunks = partial(
        read_chunks, str(source.path), split=source.split, records=source.records, rows_per_chunk=1
    )
    return lambda: next(chunks())


def check_model(path: str) -> str:
    """What a model's path names, in words. Raises InputError when it is not there."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"model.path: given {path!r}, a folder without config.json; {ALLOWED}")
        return f"the folder {folder}"
    if folder.exists() or not HUB_NAME.fullmatch(path) or path.startswith(".") or _is_local(folder):
        raise InputError(f"model.path: given {path!r}, which is not there; {ALLOWED}")
    return f"{path} from the hub"


def _is_local(folder: Path) -> bool:
    """Whether `models/name` means the folder `models` that is here, not a hub's user."""
    return folder.parent != Path() and folder.parent.is_dir()


ALLOWED = "allowed: a model folder with config.json, or a hub name such as Qwen/Qwen2.5-Math-1.5B"


def check_output(folder: Path) -> None:
    """Make the output folder. Raises OutputError when nothing can be written there."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"the output folder {folder} cannot be written: {_reason(error)}; "
            "choose another one with --output"
        ) from error


def _reason(error: OSError) -> str | None:
    in_the_way = isinstance(error, FileExistsError)
    return "a file stands where a folder must be" if in_the_way else error.strerror


def check_device(name: str, option: str) -> None:
    """Refuse a device that is plainly not there, before a worker is started.

    Raises DeviceError.
    """
    from hpo.launch.devices import gpu_names

    if not DEVICE.fullmatch(name):
        raise DeviceError(f"{option}: given {name!r}; allowed: {DEVICE_WORDS}")
    if not name.startswith("cuda"):
        return
    index = int(name.partition(":")[2] or 0)
    gpus = gpu_names()
    if index >= len(gpus):
        there = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(len(gpus)))])
        raise DeviceError(f"{option}: given {name!r}, which is not here; allowed: {there}")
