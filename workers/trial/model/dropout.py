"""Whether a model has any dropout, without which R-Drop does nothing."""

from __future__ import annotations

from torch import nn

from hpo.spec.training.config import TrainingConfig
from workers.trial.failures import InvalidTrial


def require_dropout(model: nn.Module, config: TrainingConfig) -> None:
    """Raise InvalidTrial for R-Drop on a model that drops nothing.

    Both of its passes would be the same, and their divergence zero.
    """
    if config.regularisation.rdrop is not None and not has_dropout(model):
        raise InvalidTrial(
            "training.regularisation.rdrop: given for a model without dropout; allowed: null, or "
            "dropout above zero (training.method.dropout of an adapter, attention_dropout or "
            "the like in the model's config.json)"
        )


def has_dropout(model: nn.Module) -> bool:
    """Whether anything in the model is dropped with a probability above zero."""
    return any(_drops(module) for module in model.modules())


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.Dropout):
        return module.p > 0
    # Attention has its probability as a number.
    return any(
        isinstance(value, float) and value > 0 and "dropout" in name
        for name, value in vars(module).items()
    )
