"""The study file as a typed tree."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hpo.spec.base import (
    NonNegativeFloat,
    NonNegativeInt,
    NotBoolean,
    PositiveFloat,
    PositiveInt,
    Strict,
    TwoOrMore,
    broken_rule,
)
from hpo.spec.data import DataSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
DEVICE_WORDS = "auto, cpu, cuda or cuda:N"
Metric = Literal["loss", "accuracy"]
Direction = Literal["minimize", "maximize"]


class Objective(Strict):
    """What the study looks for."""

    metric: Metric
    """The metric of the evaluation sets that decides."""
    direction: Direction
    """`minimize` for loss, `maximize` for accuracy."""

    @model_validator(mode="after")
    def direction_fits(self) -> Objective:
        """A loss is minimised, an accuracy maximised."""
        wanted = "minimize" if self.metric == "loss" else "maximize"
        if self.direction != wanted:
            raise ValueError(f"direction {wanted} for metric {self.metric}")
        return self


class ModelSpec(Strict):
    """The base model, fixed for the whole study."""

    path: Annotated[str, Field(min_length=1)]
    """Local folder or hub name."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type in which the model is served and a frozen base is kept; trained
    weights are float32, under bfloat16 autocast unless this is float32 or
    `training.compute.precision` says otherwise."""


class Every(Strict):
    """A stretch of training, in batches or in examples."""

    batches: PositiveInt | None = None
    """Optimizer steps."""
    examples: PositiveInt | None = None
    """Training examples."""

    def due(self, step: int, before: int, after: int) -> bool:
        """Whether a step that led from `before` to `after` examples completes a stretch."""
        if self.batches is not None:
            return step % self.batches == 0
        assert self.examples is not None
        return before // self.examples != after // self.examples

    @model_validator(mode="after")
    def one_unit(self) -> Every:
        """Exactly one unit is given."""
        if (self.batches is None) == (self.examples is None):
            raise ValueError("either batches or examples")
        return self


class EarlyStopping(Strict):
    """Ends a trial that no longer improves."""

    metric: Metric = "loss"
    """The metric that is watched."""
    patience: PositiveInt
    """Consecutive evaluations without improvement that end the trial."""
    min_delta: NonNegativeFloat = 0.0
    """Smallest change that counts as an improvement."""


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    if list(value) != sorted(set(value)):
        raise ValueError("different numbers in ascending order")
    return value


class EvaluationSpec(Strict):
    """When and how checkpoints are scored."""

    every: Every
    """A trial is evaluated this often, and at each rung."""
    early_stopping: EarlyStopping | None = None
    """Plateau rule; none by default."""
    max_num_seqs: PositiveInt = 64
    """Sequences that vLLM decodes at a time."""
    kv_cache_mib: PositiveInt | None = None
    """MiB of vLLM's key-value cache; found by vLLM on a GPU, 128 on a CPU."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1), NotBoolean] = 0.5
    """Share of a GPU's memory that vLLM may use."""
    tokens_per_batch: PositiveInt = 8192
    """Padded tokens in one forward pass of the loss."""
    batch_size: PositiveInt | None = None
    """Most examples in one forward pass of the loss; as many as the tokens allow by default."""
    memory: Literal["auto", "views", "together", "sleep", "reload"] = "auto"
    """How vLLM and transformers share the evaluation device. `views`: one copy of
    the weights, transformers reads vLLM's; `together`: a copy each; `sleep` and
    `reload`: vLLM lays its copy aside in host memory (level 1), or drops it and
    takes it anew (level 2), while the loss is computed. `auto` chooses, and says why."""
    sharing: Literal["auto", "turns", "shares"] = "auto"
    """How training and evaluation share a device when they have only one: `turns`,
    each with all of its memory while the other pauses, or `shares`, both at once
    within `gpu_memory_fraction`. `auto` takes turns on a GPU, shares on a CPU."""
    adapters_together: PositiveInt | None = None
    """Most waiting LoRA adapters that are scored in one go; 4 by default on a GPU.
    On a CPU only 1 is possible."""
    order: Literal["oldest", "newest"] = "oldest"
    """Which of a trial's waiting checkpoints is scored first; among trials the
    lowest rung goes first in any case."""
    length_buckets: Annotated[tuple[PositiveInt, ...], AfterValidator(_ascending)] = (
        64,
        128,
        256,
        512,
        1024,
        2048,
        4096,
        8192,
    )
    """Tokens at which the examples are parted when the loss is told by length."""
    grading_processes: PositiveInt | None = None
    """Processes that grade beside the generation; one per core, up to 8, by default."""
    grading_seconds: PositiveFloat = 10.0
    """Seconds that grading one answer may take before it counts as not gradable;
    code has `timeout_seconds` of its own."""
    answers_kib: NonNegativeInt = 1024
    """KiB, compressed, of the graded answers that are stored of each evaluation;
    0 stores none."""


class TpeSampler(Strict):
    """Tree-structured Parzen estimator, multivariate with constant liar."""

    type: Literal["tpe"] = "tpe"
    seed: NonNegativeInt = 0
    """Seeds the sampler, each trial apart, so that a restart changes nothing."""
    startup_trials: NonNegativeInt = 10
    """Random trials before the estimator is used."""


class RandomSampler(Strict):
    """Independent random draws."""

    type: Literal["random"]
    seed: NonNegativeInt = 0
    """Seeds the sampler, each trial apart."""


Sampler = Annotated[TpeSampler | RandomSampler, Field(discriminator="type")]


class AshaPruner(Strict):
    """Asynchronous successive halving, stopping variant (arXiv:1810.05934)."""

    type: Literal["asha"] = "asha"
    reduction_factor: TwoOrMore = 3
    """At each rung the best 1 / reduction_factor go on."""
    min_resource: PositiveInt | None = None
    """Examples at the first rung; the others lie reduction_factor apart.
    By default the first evaluation of the smallest effective batch size."""


class MedianPruner(Strict):
    """Optuna's median rule on the same ladder of rungs."""

    type: Literal["median"]
    reduction_factor: TwoOrMore = 3
    """Factor between two rungs."""
    min_resource: PositiveInt | None = None
    """Examples at the first rung."""
    startup_trials: NonNegativeInt = 5
    """Finished trials before the rule is used."""


class NoPruner(Strict):
    """Every trial runs to its end."""

    type: Literal["none"]


Pruner = Annotated[AshaPruner | MedianPruner | NoPruner, Field(discriminator="type")]


class Budget(Strict):
    """When the study is done."""

    trials: PositiveInt
    """Trials in total, over all runs and workers."""


class WandbTracking(Strict):
    """Weights & Biases: one run per trial, grouped by study."""

    project: str
    """Project that the runs go to."""
    entity: str | None = None
    """User or team; the key's own by default."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto` is online where a key is found, offline elsewhere."""
    directory: str | None = None
    """Where wandb keeps its files; the study's checkpoint folder by default."""


class Tracking(Strict):
    """Where curves are sent besides the database."""

    wandb: WandbTracking | None = None
    """Off by default."""
    log_every: PositiveInt = 10
    """Optimizer steps between two points of the training curves; needs `wandb`."""


def _device(value: str) -> str:
    if not DEVICE.fullmatch(value):
        raise ValueError(DEVICE_WORDS)
    return value


Device = Annotated[str, AfterValidator(_device)]


class Devices(Strict):
    """Where the workers run; may change between runs of a study."""

    trial: Device = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`; auto is the first GPU, or the CPU."""
    evaluation: Device = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`; auto is the last GPU, or the CPU."""


class Checkpoints(Strict):
    """What is left on disk."""

    keep: Literal["best", "all"] = "best"
    """`best` keeps the checkpoint of the study's best trial, `all` those of every
    evaluation. A running trial's best is kept in any case: it is what the trial gives."""
    keep_last: NonNegativeInt = 0
    """With `best`, so many of the last evaluated checkpoints of each trial stay as well."""
    total_limit: PositiveInt | None = None
    """Most evaluated checkpoints of one trial, its best among them; the oldest go first."""
    save_every: Every | None = None
    """How often a trial's training state is saved, from which it goes on after an
    interruption; at each evaluation by default."""
    disk_budget_gib: PositiveFloat | None = None
    """Most GiB of all checkpoints of the study; the oldest that nothing needs go first."""


class StudySpec(Strict):
    """A study: what is searched, on what, how it is decided."""

    name: str
    """Letters, digits, dots, dashes and underscores, 100 at most."""
    objective: Objective
    model: ModelSpec
    data: DataSpec
    training: dict[str, Any]
    """A `TrainingConfig` in which ranges and choices may stand for values."""
    evaluation: EvaluationSpec
    sampler: Sampler = TpeSampler()
    pruner: Pruner = AshaPruner()
    budget: Budget
    tracking: Tracking = Tracking()
    devices: Devices = Devices()
    checkpoints: Checkpoints = Checkpoints()

    @field_validator("name", mode="before")
    @classmethod
    def name_is_text(cls, value: Any) -> Any:
        """YAML reads a bare number as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("name")
    @classmethod
    def name_is_plain(cls, value: str) -> str:
        """A name serves as a folder's name too."""
        if not NAME.fullmatch(value):
            raise ValueError(
                "letters, digits, dots, dashes and underscores, 100 at most, "
                "a letter or a digit first"
            )
        return value

    @model_validator(mode="after")
    def metrics_are_measured(self) -> StudySpec:
        """Accuracy needs a generation set."""
        watched = {self.objective.metric}
        if self.evaluation.early_stopping is not None:
            watched.add(self.evaluation.early_stopping.metric)
        if "accuracy" in watched and self.data.generation is None:
            allowed = "a generation set, which the metric accuracy needs"
            raise broken_rule("data.generation", "nothing", allowed)
        return self
