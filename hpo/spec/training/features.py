"""Features that can be switched off by name, or on from an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hpo.spec.training.config import TrainingConfig

Feature = Literal[
    "label_smoothing",
    "rdrop",
    "ema",
    "gradient_noise",
    "neftune",
    "code_loss",
    "quality_weighting",
    "curriculum",
    "dynamic_curriculum",
]
"""What can be switched off by name."""

IN_REGULARISATION: tuple[Feature, ...] = ("rdrop", "ema", "gradient_noise", "neftune", "code_loss")
IN_ORDER: tuple[Feature, ...] = ("curriculum", "dynamic_curriculum")


def switched_on(config: TrainingConfig) -> frozenset[Feature]:
    """Features that the config gives, `ablation` and `from_epoch` apart."""
    on: set[Feature] = set()
    for name in IN_REGULARISATION:
        if getattr(config.regularisation, name) is not None:
            on.add(name)
    for name in IN_ORDER:
        if getattr(config.order, name) is not None:
            on.add(name)
    if config.regularisation.label_smoothing > 0:
        on.add("label_smoothing")
    if config.quality_weighting:
        on.add("quality_weighting")
    return frozenset(on)


def ablated(config: TrainingConfig) -> TrainingConfig:
    """The config with the features that `ablation` names taken out."""
    off: set[str] = set(config.ablation)
    if not off:
        return config
    regularisation: dict[str, Any] = {name: None for name in IN_REGULARISATION if name in off}
    if "label_smoothing" in off:
        regularisation["label_smoothing"] = 0.0
    order: dict[str, Any] = {name: None for name in IN_ORDER if name in off}
    waits: dict[str, Any] = {
        name: None for name in off if name in type(config.from_epoch).model_fields
    }
    return config.model_copy(
        update={
            "regularisation": config.regularisation.model_copy(update=regularisation),
            "order": config.order.model_copy(update=order),
            "quality_weighting": config.quality_weighting and "quality_weighting" not in off,
            "from_epoch": config.from_epoch.model_copy(update=waits),
            "ablation": [],
        }
    )


def active(config: TrainingConfig, epoch: float) -> frozenset[Feature]:
    """Features that are on after so many epochs; a part of an epoch counts as such."""
    config = ablated(config)
    return frozenset(name for name in switched_on(config) if epoch >= begins(config, name))


def begins(config: TrainingConfig, feature: Feature) -> float:
    """The epoch from which a feature that is given is on."""
    given: float | None = getattr(config.from_epoch, feature, None)
    first = given or 0.0
    if feature == "ema" and config.regularisation.ema is not None:
        return max(first, config.regularisation.ema.warmup_epochs)
    if feature == "dynamic_curriculum" and config.order.dynamic_curriculum is not None:
        return max(first, config.order.dynamic_curriculum.warmup_epochs)
    return first
