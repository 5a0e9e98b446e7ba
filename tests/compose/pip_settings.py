"""This machine's pip settings, carried into an image on which others build.

The Dockerfile that ships knows nothing of mirrors, certificates and wheel
folders. Where pip needs such settings on this machine, it needs them in the
build too: they go into a layer between the base image and ours.
"""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

from engine import Engine, quiet


def settings() -> dict[str, str]:
    """What `pip config list` says, the environment last since it prevails."""
    lines = quiet([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line]
    ordered = sorted(pairs, key=lambda pair: pair[0].startswith(":env:"))
    return {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, _, value in ordered}


def usable(words: list[str], root: Path) -> list[str]:
    """The words of a setting that hold in an image; local paths are copied below `root`."""
    kept = [word for word in words if not word.startswith("file:")]
    for path in map(Path, kept):
        if path.is_absolute() and path.exists():
            copy(path, root / path.relative_to("/"))
    return kept


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder of files to where an image will have it."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def image_with_settings(engine: Engine, base: str, folder: Path) -> str:
    """Build an image from `base` in which pip works as it does here; return its tag."""
    root = folder / "pip"
    (root / "etc").mkdir(parents=True)
    lines = ["[global]"]
    for name, value in settings().items():
        words = usable(value.split(), root)
        if words:
            lines.append(f"{name} = {' '.join(words)}")
    (root / "etc" / "pip.conf").write_text("\n".join(lines) + "\n")
    recipe = folder / "pip.Dockerfile"
    recipe.write_text(f"FROM {base}\nCOPY . /\n")
    tag = "hpo-test-python"
    engine.build(tag, root, f"--file={recipe}")
    shutil.rmtree(root)
    return tag
