"""Rules that hold between the data section and what is searched in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hpo.spec.errors import Problem, SpecError
from hpo.spec.space import SearchSpace
from hpo.spec.study import StudySpec, Tracking
from hpo.spec.training.devices import TrainingDevice, device_problems


def hoisted(tree: dict[str, Any]) -> dict[str, Any]:
    """A study file whose choices under `data.train.completion` stand in `training`.

    Everything that is searched stands in the training section; the field that
    is trained on may be written where fields are named, too.
    """
    data, training = tree.get("data"), tree.get("training")
    train = data.get("train") if isinstance(data, Mapping) else None
    given = train.get("completion") if isinstance(train, Mapping) else None
    searched = isinstance(given, Mapping) and "choices" in given
    if not searched or not isinstance(training, Mapping) or "completion" in training:
        return tree
    assert isinstance(train, Mapping)
    rest = {key: value for key, value in train.items() if key != "completion"}
    return tree | {
        "data": {**(data or {}), "train": rest},
        "training": {**training, "completion": given},
    }


def contradictions(spec: StudySpec, space: SearchSpace) -> Iterator[Problem]:
    """What the data section cannot give to some trial of the space."""
    fields = [field for field in space.extremes("completion") if field is not None]
    if fields:
        yield from _other_completions(spec, fields)
    if len(space.extremes("compute.micro_batch")) > 1:
        allowed = "one number or nothing: it is a means, and gives the same loss whatever it is"
        yield Problem("training.compute.micro_batch", "a range or choices", allowed)
    flash = "flash_attention_2" in space.extremes("compute.attention")
    if flash and spec.model.dtype == "float32" and "auto" in space.extremes("compute.precision"):
        allowed = "sdpa or eager, as flash attention knows no float32; or another model.dtype"
        yield Problem("training.compute.attention", "'flash_attention_2'", allowed)
    if True in space.extremes("quality_weighting") and spec.data.quality is None:
        allowed = "a quality section, which training.quality_weighting needs"
        yield Problem("data.quality", "nothing", allowed)
    yield from _without_effect(spec)


def require_device(spec: StudySpec, device: TrainingDevice, shown: str) -> None:
    """Refuse a study that asks for what the training device has not.

    `shown` names the study in the message. Raises SpecError.
    """
    problems: dict[Problem, None] = {}
    for config in SearchSpace.of(spec.training).configs():
        for found in device_problems(config, device):
            problems[replace(found, path=f"training.{found.path}")] = None
    if problems:
        raise SpecError(shown, list(problems))


def _without_effect(spec: StudySpec) -> Iterator[Problem]:
    """Options that another one leaves nothing to do."""
    kept = spec.checkpoints
    if kept.keep == "all" and kept.keep_last:
        allowed = "0 with keep: all, which keeps the last ones too; total_limit bounds their number"
        yield Problem("checkpoints.keep_last", str(kept.keep_last), allowed)
    every = spec.tracking.log_every
    if spec.tracking.wandb is None and every != Tracking().log_every:
        allowed = "nothing without tracking.wandb, as no training curves are drawn"
        yield Problem("tracking.log_every", str(every), allowed)


def _other_completions(spec: StudySpec, fields: list[str]) -> Iterator[Problem]:
    """Trials that train on different fields must be scored on the same one."""
    formats = {source.format for source in spec.data.train.all_sources()}
    for kind in sorted(formats - {"auto", "prompt-completion", "dialogue"}):
        allowed = "a format with a field for the completion, which training.completion names"
        yield Problem("data.train.format", repr(kind), allowed)
    for name, part in spec.data.evaluation_sets().items():
        if part.completion is None:
            yield Problem(
                f"data.{name}.completion",
                "nothing",
                "the field that every trial is scored on, as training.completion chooses "
                f"another one to train on ({', '.join(fields)})",
            )
    if spec.data.same != "prompt":
        allowed = "prompt, as trials train on different completions"
        yield Problem("data.same", repr(spec.data.same), allowed)
