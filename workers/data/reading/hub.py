"""Rows of a `datasets` name or of a folder, through the library datasets."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator

from workers.data.reading.fields import Row
from workers.data.reading.files import Read, refusal


def hub_rows(path: str, split: str) -> Iterator[Read]:
    """The rows of a folder or a name (`name`, `name:config`).

    Raises InputError where the library is not there or does not find them.
    """
    for number, row in enumerate(_load(path, split), start=1):
        yield f"{path}[{split}]:{number}", row, 0


def _load(path: str, split: str) -> Iterable[Row]:
    folder = os.path.isdir(path)
    missing = "a folder" if folder else "no such file"
    try:
        import datasets
    except ImportError:
        allowed = "a data file, or a `datasets` name where the library datasets is installed"
        raise refusal(path, missing, allowed) from None
    name, _, config = (path, "", "") if folder else path.partition(":")
    try:
        rows: Iterable[Row] = datasets.load_dataset(name, config or None, split=split)
    except (
        OSError,
        ValueError,
        pickle.PicklingError,
        datasets.exceptions.DatasetsError,
    ) as error:
        given = f"{missing}, and no data set with split {split!r} ({_one_line(error)})"
        raise refusal(path, given, "a data file, or a `datasets` name in reach") from error
    return rows


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
