"""What is told of an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """One optimizer step."""

    step: int
    """Optimizer steps so far, this one included."""
    examples: int
    """Training examples seen so far."""
    loss: float
    """Nats per counted token over the whole step, weighted by quality where
    that is trained on and any of the step weighs something. Plain
    cross-entropy, whatever else is minimised."""
    objective: float
    """What was minimised: the loss, smoothed and with its auxiliary terms."""
    tokens: int
    """Counted tokens of the step."""
    input_tokens: int
    """All tokens of the step's examples, without padding."""
    gradient_norm: float
    """Before clipping and noise."""
    learning_rate: float
    """The peak rate that this step was taken with."""
    micro_batch: int
    """Rows per forward pass: examples, or packed rows of them."""
    seconds: float
    """Wall time of the step."""
