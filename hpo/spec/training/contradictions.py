"""Training options that exclude each other, wherever they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hpo.spec.errors import Problem
from hpo.spec.training.features import IN_ORDER, ablated, active, begins, switched_on

if TYPE_CHECKING:
    from hpo.spec.training.config import TrainingConfig


def contradiction(config: TrainingConfig) -> Problem | None:
    """The first pair of options that exclude each other; paths begin below `training`."""
    return next(_contradictions(config), None)


def _contradictions(config: TrainingConfig) -> Iterator[Problem]:
    yield from _idle_names(config)
    config = ablated(config)
    yield from _never_on(config)
    if config.packing and config.regularisation.rdrop is not None:
        yield Problem(
            "packing",
            "true with regularisation.rdrop",
            "false with R-Drop, which compares two passes over each example; "
            "order.length_buckets saves padding without packing",
        )
    orders: list[str] = [name for name in IN_ORDER if getattr(config.order, name) is not None]
    if config.order.length_buckets and orders:
        yield Problem(
            "order.length_buckets",
            f"{config.order.length_buckets} with order.{orders[0]}",
            "0 where a curriculum decides the order; packing saves padding in any order",
        )
    compute = config.compute
    if compute.attention == "flash_attention_2" and compute.precision == "fp32":
        yield Problem(
            "compute.attention",
            "'flash_attention_2' with precision fp32",
            "sdpa or eager in fp32, or precision bf16 or fp16",
        )


def _idle_names(config: TrainingConfig) -> Iterator[Problem]:
    """Names of features that are not there: an option must not do nothing."""
    on = switched_on(config)
    shown = ", ".join(sorted(on)) or "none"
    for name in config.ablation:
        if name not in on:
            allowed = f"features that are given ({shown}), whatever else is drawn"
            yield Problem("ablation", name, allowed)
    for later, epoch in config.from_epoch:
        if epoch is not None and later not in on:
            allowed = (
                f"nothing where the feature is off; features that are given: {shown}; to search "
                f"whether it is on, give it and ablation: {{choices: [[], [{later}]]}}"
            )
            yield Problem(f"from_epoch.{later}", f"{epoch:g}", allowed)


def _never_on(config: TrainingConfig) -> Iterator[Problem]:
    if config.epochs is not None:
        yield from never_on(config, config.epochs * (1 - 1e-9), config.epochs)


def never_on(config: TrainingConfig, last: float, epochs: float) -> Iterator[Problem]:
    """Features that begin when a trial has ended; paths begin below `training`.

    `last` is the epoch at which the last step begins, of `epochs` in all.
    """
    config = ablated(config)
    for name in sorted(switched_on(config) - active(config, last)):
        path = f"from_epoch.{name}"
        if name == "dynamic_curriculum":
            path = "order.dynamic_curriculum.warmup_epochs"
        elif name == "ema" and getattr(config.from_epoch, name) is None:
            path = "regularisation.ema.warmup_epochs"
        given = f"{begins(config, name):g} where a trial ends after {epochs:.3g} epochs"
        yield Problem(path, given, "less than that, or longer trials")
