"""The model that writes: where its files lie, and which model exactly it is."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from hpo.spec.errors import InputError
from hpo.spec.generate import Writer
from hpo.spec.identity import fingerprint

UNUSED_FILES = ["*.pth", "*.pt", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "original/*"]
"""Copies of the weights in other formats."""


@dataclass(frozen=True)
class LocalModel:
    """A model whose files are on this machine."""

    name: str
    """As the file names it."""
    folder: Path
    content: str
    """`sha256:...` of a local folder, the commit of a hub name: never two models' at once."""


def find_model(writer: Writer) -> LocalModel:
    """The model's files, downloaded where they lie on a hub.

    Raises InputError when there are none.
    """
    folder = Path(writer.path).expanduser()
    if not folder.exists():
        return _downloaded(writer)
    if not (folder / "config.json").is_file():
        raise _refusal(writer.path, "no model folder: it has no config.json")
    if writer.revision is not None:
        raise InputError(
            f"model.revision: given {writer.revision!r} for a local folder; "
            "allowed: a revision of a hub name, or null"
        )
    return LocalModel(writer.path, folder, fingerprint(str(folder)))


def context_length(model: LocalModel) -> int | None:
    """Most tokens that the model takes, prompt and response together; None if unlimited.

    Raises InputError for a configuration that cannot be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model.folder)
    except (OSError, ValueError, KeyError) as error:
        raise _refusal(model.name, textwrap.shorten(str(error), 300)) from error
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length


def _downloaded(writer: Writer) -> LocalModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = snapshot_download(
            writer.path, revision=writer.revision, ignore_patterns=UNUSED_FILES
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise _refusal(writer.path, textwrap.shorten(str(error), 300)) from error
    # The hub's cache names a snapshot's folder after its commit.
    return LocalModel(writer.path, Path(folder), Path(folder).name)


def _refusal(path: str, reason: str) -> InputError:
    return InputError(
        f"model.path: given {path!r}, which is not there or unreadable ({reason}); "
        "allowed: a model folder with config.json, or a hub name in reach"
    )
