"""Optimizers from their specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from torch.optim import AdamW, Muon, Optimizer

from hpo.spec.training import optimizer as specs
from hpo.spec.training.config import TrainingConfig
from workers.trial.failures import InvalidTrial
from workers.trial.optimizer.combined import Combined
from workers.trial.optimizer.groups import Grouping, Named
from workers.trial.optimizer.layers import DecoderLayers, is_embedding
from workers.trial.optimizer.offload import OffloadedAdamW


def make_optimizer(config: TrainingConfig, trainable: Sequence[Named]) -> Optimizer:
    """The optimizer of a trial, each group with its own peak learning rate.

    Moments have the type of their weights, except those of bitsandbytes. The
    same config and names give the same groups in the same order, so a saved
    state fits. Raises InvalidTrial for what this model or device cannot have.
    """
    spec = config.optimizer
    grouping = Grouping(config, trainable)
    match spec:
        case specs.AdamW():
            return _adamw(spec, grouping, trainable)
        case specs.BitsAndBytesAdamW():
            return _bitsandbytes(spec, grouping, trainable)
        case specs.Muon():
            return _muon(spec, grouping, trainable)
        case _:
            assert_never(spec)


def _adamw(spec: specs.AdamW, grouping: Grouping, trainable: Sequence[Named]) -> Optimizer:
    if spec.offload > 0:
        return OffloadedAdamW(grouping.groups(trainable), spec.offload, **_adamw_options(spec))
    return AdamW(grouping.groups(trainable), **_adamw_options(spec))


def _adamw_options(spec: specs.Optimizer) -> dict[str, Any]:
    """AdamW's options that all groups share.

    The fused kernel works element by element, so it is deterministic, and it
    allocates nothing beside the moments. torch has it for CPUs and GPUs and
    for all types that are trained in.
    """
    return {"betas": (spec.beta1, spec.beta2), "eps": spec.epsilon, "fused": True}


def _muon(spec: specs.Muon, grouping: Grouping, trainable: Sequence[Named]) -> Optimizer:
    """Muon on the matrices of the decoder layers, an adapter's too; AdamW on all else."""
    layers = DecoderLayers.among(name for name, _ in trainable)
    hidden = [one for one in trainable if layers and layers.hold(one[0]) and one[1].ndim == 2]
    if not hidden:
        raise InvalidTrial(
            "training.optimizer.type: given 'muon'; allowed: adamw for a model whose trained "
            "parameters' names do not show matrices in one numbered list of layers"
        )
    muon = Muon(
        grouping.groups(hidden),
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        ns_steps=spec.newton_schulz_steps,
        adjust_lr_fn=spec.adjustment.replace("-", "_"),
    )
    ids = {id(parameter) for _, parameter in hidden}
    rest = grouping.groups(one for one in trainable if id(one[1]) not in ids)
    return Combined(muon, AdamW(rest, **_adamw_options(spec))) if rest else muon


def _bitsandbytes(
    spec: specs.BitsAndBytesAdamW, grouping: Grouping, trainable: Sequence[Named]
) -> Optimizer:
    """AdamW of bitsandbytes; embeddings keep moments of 32 bits, as in arXiv:2110.02861."""
    if any(parameter.device.type == "cpu" for _, parameter in trainable):
        raise _refused(spec, "on a CPU", "adamw or muon, or a GPU")
    try:
        from workers.trial.optimizer.bitsandbytes import BITS, BitsAndBytesAdamW
    except ModuleNotFoundError as error:
        if error.name != "bitsandbytes":
            raise
        missing = "but the package bitsandbytes is not installed"
        raise _refused(spec, missing, "adamw or muon, or install bitsandbytes") from None
    eight = spec.type in ("adamw-8bit", "paged-adamw-8bit")
    embeddings = [one for one in trainable if is_embedding(one[0])]
    others = [one for one in trainable if not is_embedding(one[0])]
    groups = [
        *grouping.groups(embeddings, **{BITS: 32}),
        *grouping.groups(others, **{BITS: 8 if eight else 32}),
    ]
    optimizer: Optimizer = BitsAndBytesAdamW(
        groups,
        betas=(spec.beta1, spec.beta2),
        eps=spec.epsilon,
        paged=spec.type in ("paged-adamw", "paged-adamw-8bit"),
    )
    return optimizer


def _refused(spec: specs.BitsAndBytesAdamW, given: str, allowed: str) -> InvalidTrial:
    return InvalidTrial(f"training.optimizer.type: given {spec.type!r} {given}; allowed: {allowed}")
