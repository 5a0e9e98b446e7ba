"""The files that Python needs to run a program that uses its standard library alone."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PROBE_SECONDS = 60.0

# Imports what is compiled, so that the libraries it is linked with are mapped.
_PROBE = """
import importlib, json, os, sys
standard = os.path.dirname(os.__file__)
compiled = os.path.join(standard, "lib-dynload")
for file in os.listdir(compiled) if os.path.isdir(compiled) else ():
    name = file.partition(".")[0]
    if name.startswith("_test") or name in ("_tkinter", "readline", "nis", "xxlimited"):
        continue
    try:
        importlib.import_module(name)
    except ImportError:
        pass
maps = [line.split(None, 5) for line in open("/proc/self/maps")]
mapped = {entry[5].strip() for entry in maps if len(entry) == 6}
libraries = {os.path.dirname(path) for path in mapped if ".so" in os.path.basename(path)}
print(json.dumps([standard, sorted(path for path in libraries if path.startswith("/"))]))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python and where its files are; all paths are absolute."""

    executable: str
    folders: tuple[str, ...]
    """Standard library and shared libraries; none lies within another."""
    hidden: tuple[str, ...]
    """Folders within these that are not Python's own: installed packages."""
    loaders: tuple[str, ...]
    """The dynamic linker, under the paths that programs name it by."""
    libraries: tuple[str, ...]
    """Folders with shared libraries, in the order they are searched."""

    @property
    def environment(self) -> dict[str, str]:
        """All variables that it is started with.

        Sets of texts have the same order in every run, as a grade must be the same.
        """
        return {"LD_LIBRARY_PATH": ":".join(self.libraries), "PYTHONHASHSEED": "0"}

    @property
    def command(self) -> list[str]:
        """Starts it without packages, the present folder or files of its own making."""
        return [self.executable, "-P", "-s", "-S", "-B", "-X", "utf8"]


def this_interpreter() -> Interpreter:
    """The Python that runs this, without its virtual environment.

    Raises RuntimeError when it cannot be started.
    """
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    standard, libraries = _probed(executable)
    folders = _outermost([standard, *libraries])
    return Interpreter(
        executable=executable,
        folders=folders,
        hidden=_packages(folders),
        loaders=tuple(sorted(glob.glob("/lib*/ld-*.so*"))),
        libraries=tuple(path for path in libraries if not Path(path).is_relative_to(standard)),
    )


def _probed(executable: str) -> tuple[str, list[str]]:
    done = subprocess.run(
        [executable, "-I", "-S", "-c", _PROBE],
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{executable} does not run: {done.stderr.strip()[-500:]}")
    standard, libraries = json.loads(done.stdout)
    return standard, libraries


def _outermost(folders: list[str]) -> tuple[str, ...]:
    paths = sorted({Path(folder) for folder in folders})
    return tuple(
        str(path)
        for path in paths
        if not any(path != other and path.is_relative_to(other) for other in paths)
    )


def _packages(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Folders for installed packages, as Python and Debian name them."""
    found = [
        path
        for folder in folders
        for name in ("site-packages", "dist-packages")
        for depth in ("", "python3*/")
        for path in glob.glob(f"{folder}/{depth}{name}")
    ]
    return tuple(sorted(found))
