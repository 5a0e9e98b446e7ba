"""The base model: loaded once, lent to one trial after another.

Precision. Weights that are trained are float32 and multiplied in bfloat16 or
float16 under autocast, or as they are (`fp32`); with `pure-bf16` they are
bfloat16 themselves. A frozen base has the values of `model.dtype`, in which it
is served, and is held in that type; in float32 for `fp32`, in bfloat16 for
`pure-bf16`. Where a study trains the base's own weights, the base is held in
float32 and other trials work on a copy of it, so each is the same trial as in
a study of its own.

Memory. Full fine-tuning in float32 keeps a snapshot in host memory (4 bytes per
parameter, pinned on a GPU). All else never writes the base and keeps none:
LoRA leaves it frozen, `pure-bf16` trains a copy (2 bytes). A trial on a copy
holds the base twice on the device (4 bytes and the copy's), less than a full
trial's gradients and moments. A 4-bit base (about half a byte) is held beside
the plain one, or alone where no trial needs that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from hpo.spec.study import ModelSpec
from hpo.spec.training.compute import Compute
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.method import LoraMethod, Method
from workers.data.batches.loss import check_loss
from workers.data.batches.separation import separates_packed
from workers.trial.failures import InvalidTrial
from workers.trial.memory import must_fit
from workers.trial.model.adapter import attach_adapter
from workers.trial.model.attached import AttachedModel
from workers.trial.model.compiled import Backend, LayerCompiler
from workers.trial.model.dropout import require_dropout
from workers.trial.model.fingerprint import fingerprint
from workers.trial.model.loading import load_model
from workers.trial.model.needs import Kind, ModelNeeds
from workers.trial.model.precision import DTYPES, Precision, freeze_in, train_whole
from workers.trial.model.pristine import Pristine
from workers.trial.model.quantised import compute_in, load_in_4bit
from workers.trial.model.switches import (
    allow_deterministic,
    set_attention,
    set_checkpointing,
    switched,
)
from workers.trial.model.targets import takes_served_adapters


class ReusableModel:
    """A base model that is as new after every trial."""

    def __init__(
        self,
        model: PreTrainedModel | None,
        quantised: PreTrainedModel | None,
        dtype: torch.dtype,
        needs: ModelNeeds,
        compiler: LayerCompiler | None = None,
    ) -> None:
        """`model` is the base as it is, `quantised` the one in 4 bits; one may be missing."""
        self.dtype = dtype
        self.needs = needs
        self._plain = None if model is None else Pristine(model, written=needs.trains_base)
        self._quantised = None if quantised is None else Pristine(quantised, written=False)
        self._compiler = compiler
        self._merged = needs.merged or not takes_served_adapters(self.model)
        self._attached = False
        self._separates: set[str] = set()

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        *,
        device: torch.device,
        needs: ModelNeeds,
        backend: Backend = "inductor",
    ) -> ReusableModel:
        """Load the model that `spec` names, for trials that ask for no more than `needs`.

        `backend` compiles layers, where that may be asked for. Raises
        InputError when the folder is missing, broken or incomplete, or when
        bitsandbytes or a compiler is needed and missing.
        """
        if needs.deterministic:
            allow_deterministic(device)
        compiler = LayerCompiler(backend) if needs.compiled else None
        if compiler is not None:
            compiler.check(device)
        dtype = DTYPES[spec.dtype]
        model = None
        if needs.plain:
            model = load_model(spec.path, torch.float32 if needs.trains_base else dtype)
            model.to(device)  # type: ignore[arg-type]
        quantised = load_in_4bit(spec.path, dtype, device) if needs.four_bit else None
        reusable = cls(model, quantised, dtype, needs, compiler)
        check_loss(reusable.model, device)
        return reusable

    @property
    def model(self) -> PreTrainedModel:
        """The base; in 4 bits where no trial needs it otherwise."""
        return self._bases[0].model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @contextmanager
    def attach(self, config: TrainingConfig) -> Iterator[AttachedModel]:
        """Lend the model to one trial and take it back as it was before.

        `config.seeds.initialisation` initialises an adapter. Switches of the
        whole process (tf32, deterministic algorithms) are the trial's inside.
        Compiled layers round as their first trial's shapes had them compiled:
        equal to a fresh process's within rounding, not to the bit.

        Raises InvalidTrial for what this model does not have: targets, biases,
        an implementation of attention, dropout for R-Drop.
        """
        base = self._base_for(config)
        if self._attached:
            raise RuntimeError("the model is lent to a trial already")
        self._attached = True
        try:
            with switched(config.compute), self._compiled(base.model, config.compute):
                with must_fit("what is trained beside the base"):
                    attached = self._prepare(base.model, config)
                require_dropout(attached.module, config)
                yield attached
        finally:
            base.restore()
            self._attached = False

    def fingerprint(self) -> str:
        """Content hash of the base's parameters and buffers."""
        return " ".join(fingerprint(base.model) for base in self._bases)

    def verify(self) -> None:
        """Raise BaseModelChanged unless the base is as it was loaded."""
        for base in self._bases:
            base.verify()

    @property
    def _bases(self) -> list[Pristine]:
        return [base for base in (self._plain, self._quantised) if base is not None]

    def _base_for(self, config: TrainingConfig) -> Pristine:
        """The base that a trial works on; ValueError where the model was not loaded for it."""
        method, needs = config.method, self.needs
        in_4bit = isinstance(method, LoraMethod) and method.base == "4bit"
        base = self._quantised if in_4bit else self._plain
        in_place = method.type == "full" and config.compute.precision != "pure-bf16"
        prepared = method.type in needs.methods and (needs.in_place or not in_place)
        if base is None or not prepared or (config.compute.compile and self._compiler is None):
            raise ValueError(f"method {method} with {config.compute} on a model for {needs}")
        return base

    @contextmanager
    def _compiled(self, base: PreTrainedModel, compute: Compute) -> Iterator[None]:
        if self._compiler is None or not compute.compile:
            yield
            return
        with self._compiler.applied(base):
            yield

    def _prepare(self, base: PreTrainedModel, config: TrainingConfig) -> AttachedModel:
        set_attention(base, config.compute)
        self._require_separation(base, config)
        set_checkpointing(base, config.compute)
        precision = Precision.of(config.compute, self.dtype)
        if isinstance(config.method, LoraMethod):
            module = self._adapted(base, config.method, config, precision)
        else:
            module = base
            train_whole(base, precision.trained)
        module.train()
        return AttachedModel(
            kind=self._served_as(config.method),
            module=module,
            base=base,
            plain=self.model,
            trainable=[pair for pair in module.named_parameters() if pair[1].requires_grad],
            served_dtype=self.dtype,
            autocast_dtype=precision.autocast,
        )

    def _adapted(
        self,
        base: PreTrainedModel,
        method: LoraMethod,
        config: TrainingConfig,
        precision: Precision,
    ) -> Any:
        if method.base == "4bit":
            self._require_mergeable(method)
            precision = precision.beside_4bit()
        freeze_in(base, precision.frozen, self.dtype)
        if method.base == "4bit":
            compute_in(base, precision.autocast or precision.frozen)
        seed = config.seed_of("initialisation")
        return attach_adapter(base, method, seed, dtype=precision.trained)

    def _require_separation(self, base: PreTrainedModel, config: TrainingConfig) -> None:
        """Packed examples must not see each other; tried once for each kind of attention."""
        kind = str(base.config._attn_implementation)
        if not config.packing or kind in self._separates:
            return
        if not separates_packed(base, config, self.device):
            raise InvalidTrial(
                f"training.packing: given true with a {type(base).__name__}, in which packed "
                "examples see each other; allowed: false with this model; "
                "order.length_buckets saves padding without packing"
            )
        self._separates.add(kind)

    def _require_mergeable(self, method: LoraMethod) -> None:
        if self._plain is None and self._served_as(method) == "full":
            raise InvalidTrial(
                "training.method.base: given '4bit'; allowed: model, as adapters of "
                f"{type(self.model).__name__} are merged into the base to be scored"
            )

    def _served_as(self, method: Method) -> Kind:
        if isinstance(method, LoraMethod) and method.served_as_adapter and not self._merged:
            return "lora"
        return "full"
