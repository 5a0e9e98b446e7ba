"""Full checkpoints: verified against the base model, then read tensor by tensor.

An engine that is fed tensors of a wrong shape, or too few of them, fails late,
loops for ever or answers nonsense without a word. So everything is compared
before any engine is touched: names, shapes, types, and that every value is
finite. Lengths and checksums of the files were compared when the checkpoint
was opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from storage.checkpoints import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

NamedTensors = Iterable[tuple[str, "Tensor"]]
WeightSource = Callable[[], Iterator[tuple[str, "Tensor"]]]
"""Gives the tensors of a whole model, under the names of a checkpoint, each time it is called."""

_NAMED_IN_MESSAGE = 3
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class NotFinite(CheckpointError):
    """A weight is NaN or infinite: training has diverged."""


@dataclass(frozen=True)
class TensorType:
    """Shape and element type of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str
    """As torch calls it, such as `bfloat16`."""

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Layout:
    """The tensors that a full checkpoint of a model must hold."""

    required: Mapping[str, TensorType]
    tied: Mapping[str, str]
    """Second names of tied tensors, which a checkpoint may leave out, and the first ones."""

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Read the layout off a transformers model in the type it is served in."""
        first: dict[int, str] = {}
        tied: dict[str, str] = {}
        state = model.state_dict(keep_vars=True)
        for name, tensor in state.items():
            if first.setdefault(id(tensor), name) != name:
                tied[name] = first[id(tensor)]
        return cls(
            required={name: type_of(state[name]) for name in first.values()},
            tied=tied,
        )


def verify_full(directory: Path, layout: Layout) -> dict[str, Path]:
    """Compare a full checkpoint with the base model, and look at every value.

    Returns the file of every required tensor. Raises CheckpointError when a
    file is missing or cut short, when names, shapes or types differ, or when
    tied tensors are not the same, and NotFinite.
    """
    files = {directory / name for name in _weight_files(directory)}
    found = {file: tensor_types(file) for file in sorted(files)}
    stored = {name: kind for types in found.values() for name, kind in types.items()}
    refuse_misfit(directory, stored, layout)
    places = {name: file for file, types in found.items() for name in types}
    require_finite(directory, read_tensors(places))
    _refuse_untied(directory, places, layout)
    return {name: file for name, file in places.items() if name in layout.required}


def require_finite(directory: Path, tensors: NamedTensors) -> None:
    """Raise NotFinite, which names the tensor, when a value is NaN or infinite."""
    for name, tensor in tensors:
        # `isfinite` takes twenty times as long, and memory.
        if tensor.is_floating_point() and tensor.numel():
            low, high = (float(end) for end in tensor.aminmax())
            if not (isfinite(low) and isfinite(high)):
                kind = "NaN" if isnan(low) or isnan(high) else "infinite values"
                raise NotFinite(f"checkpoint {directory} holds {kind} in {name}: it has diverged")


def tensor_types(file: Path) -> dict[str, TensorType]:
    """Types of the tensors in a safetensors file, whose length is checked too.

    Raises CheckpointError when the file is missing or cut short.
    """
    with _opened(file) as stored:
        slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
        return {
            name: TensorType(tuple(part.get_shape()), _dtype(part.get_dtype()))
            for name, part in slices.items()
        }


def read_tensors(files: Mapping[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """The tensors named in `files`, one at a time, on the CPU."""
    for file in sorted(set(files.values())):
        yield from ((name, tensor) for name, tensor in tensors_of(file) if files.get(name) == file)


def tensors_of(file: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a file, one at a time, on the CPU; they lie in the mapped file."""
    with _opened(file) as stored:
        for name in stored.keys():  # noqa: SIM118
            yield name, stored.get_tensor(name)


def _weight_files(directory: Path) -> set[str]:
    index = directory / INDEX
    if not index.is_file():
        return {WEIGHTS}
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"unreadable {index}: {error}") from error
    return names


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if not file.is_file():
        raise CheckpointError(f"checkpoint file {file} is missing")
    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint file {file} cannot be read: {error}") from error


def _dtype(code: str) -> str:
    return _DTYPES.get(code, code)


def type_of(tensor: Tensor) -> TensorType:
    """Shape and element type of a tensor."""
    return TensorType(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def refuse_misfit(directory: Path, stored: Mapping[str, TensorType], layout: Layout) -> None:
    """Raise CheckpointError when the tensors of a whole model are not those of the base."""
    allowed = dict(layout.required)
    allowed |= {name: layout.required[first] for name, first in layout.tied.items()}
    missing = layout.required.keys() - stored.keys()
    extra = stored.keys() - allowed.keys()
    wrong = {
        name: kind for name, kind in stored.items() if name in allowed and kind != allowed[name]
    }
    problems = [
        *(f"{name} is missing" for name in sorted(missing)),
        *(f"{name} is not in the base model" for name in sorted(extra)),
        *(f"{name} is {wrong[name]}, not {allowed[name]}" for name in sorted(wrong)),
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint {directory} does not fit the base model: {summary(problems)}"
        )


def _refuse_untied(directory: Path, places: Mapping[str, Path], layout: Layout) -> None:
    """Refuse second names of tied tensors with values of their own, which nobody would read."""
    for name in sorted(layout.tied.keys() & places.keys()):
        pair = {key: places[key] for key in (name, layout.tied[name])}
        one, other = (tensor for _, tensor in read_tensors(pair))
        if not one.equal(other):
            raise CheckpointError(
                f"checkpoint {directory} does not fit the base model: "
                f"{name} differs from {layout.tied[name]}, which the base model ties it to"
            )


def summary(problems: Iterable[str]) -> str:
    """The first few problems, and how many more there are."""
    lines = list(problems)
    more = len(lines) - _NAMED_IN_MESSAGE
    listed = "; ".join(lines[:_NAMED_IN_MESSAGE])
    return f"{listed}; and {more} more" if more > 0 else listed
