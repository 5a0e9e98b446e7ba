"""Training one trial: the loop, and its state for resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hpo.spec.training.config import TrainingConfig
from workers.data.batches.collate import collate
from workers.data.batches.loss import token_losses
from workers.data.batches.order import ExampleOrder
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import Diverged, DoesNotFit, InvalidTrial
from workers.trial.loop.length import total_steps
from workers.trial.loop.microbatch import MicroBatch
from workers.trial.loop.randomness import RandomStreams
from workers.trial.model.reusable import AttachedModel, Kind
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.schedule import make_schedule

STATE_FILE = "training_state.pt"


@dataclass(frozen=True)
class StepReport:
    """One optimizer step."""

    step: int
    """Optimizer steps so far, this one included."""
    examples: int
    """Training examples seen so far."""
    loss: float
    """Nats per counted token over the whole step, weighted by quality where that is trained on."""
    tokens: int
    """Counted tokens of the step."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    """The rate that this step was taken with."""
    micro_batch: int
    """Examples per forward pass."""
    seconds: float
    """Wall time of the step."""


class TrainingRun:
    """One trial's training, one optimizer step at a time.

    A step either happens whole or, when it raises, not at all: weights,
    moments, data order and random streams are then those of the step before.
    All randomness depends on `config.seed` and stays inside the run.
    """

    def __init__(
        self,
        attached: AttachedModel,
        config: TrainingConfig,
        examples: Sequence[EncodedExample],
        *,
        pad_id: int,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the first step; `on_progress` is called after each micro-batch.

        Raises InvalidTrial when there is nothing to train on.
        """
        if not examples:
            raise InvalidTrial(
                f"training.max_length: given {config.max_length}, which leaves no completion in "
                "any training example; allowed: more than the prompts have tokens"
            )
        self._attached = attached
        self._config = config
        self._examples = examples
        self._pad_id = pad_id
        self._device = device
        self._autocast_dtype = autocast_dtype
        self._on_progress = on_progress
        self._step = 0
        self.total_steps = total_steps(config, len(examples))
        self._order = ExampleOrder(len(examples), config.seed)
        self._optimizer = make_optimizer(config.optimizer, attached.trainable)
        self._schedule = make_schedule(config.schedule, self._optimizer, self.total_steps)
        self._random = RandomStreams(config.seed, device)
        self._micro_batch = MicroBatch.initial(config.effective_batch_size, examples, device)

    @property
    def kind(self) -> Kind:
        """What a checkpoint of this run holds: a model or an adapter."""
        return self._attached.kind

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._step

    @property
    def examples_seen(self) -> int:
        """Training examples that the weights have seen."""
        return self._step * self._config.effective_batch_size

    @property
    def micro_batch(self) -> int:
        """Examples per forward pass: what was found to fit, not a hyperparameter."""
        return self._micro_batch.size

    @property
    def finished(self) -> bool:
        """Whether the last step has been taken."""
        return self._step >= self.total_steps

    def train_batch(self) -> StepReport:
        """Take one optimizer step over the effective batch.

        Raises Diverged, before the weights change, when loss or gradient is
        not finite, and DoesNotFit when a single example is too much.
        """
        if self.finished:
            raise RuntimeError(f"all {self.total_steps} steps have been taken")
        started = time.perf_counter()
        examples = self._next_examples()
        tokens = sum(example.counted for example in examples)
        divisor = self._divisor(examples, tokens)
        learning_rate = float(self._schedule.get_last_lr()[0])
        with self._random:
            loss, norm = self._micro_batch.fit(
                lambda: self._gradients(examples, divisor), self._take_back
            )
            self._require_finite(loss, norm, learning_rate)
            self._update(norm)
        return StepReport(
            step=self._step,
            examples=self.examples_seen,
            loss=loss,
            tokens=tokens,
            gradient_norm=norm.item(),
            learning_rate=learning_rate,
            micro_batch=self.micro_batch,
            seconds=time.perf_counter() - started,
        )

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as copies in host memory, at full precision."""
        return {
            "of": self._identity(),
            "step": self._step,
            "micro_batch": self._micro_batch.size,
            "weights": self._attached.state_dict(),
            "optimizer": _host_copy(self._optimizer.state_dict()),
            "schedule": _host_copy(self._schedule.state_dict()),
            "random": self._random.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, in a run with the same configuration.

        Raises InvalidTrial when configuration or number of examples differ.
        """
        if state["of"] != self._identity():
            raise InvalidTrial(
                f"the saved training state is of another run: given {state['of']}; "
                f"allowed: {self._identity()}"
            )
        self._step = state["step"]
        self._micro_batch.size = state["micro_batch"]
        self._attached.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._random.restore(state["random"])

    def save_state(self, directory: Path) -> None:
        """Write the state into a folder, for `load_state`."""
        torch.save(self.state(), directory / STATE_FILE)

    def load_state(self, directory: Path) -> None:
        """Restore what `save_state` wrote; only tensors and plain values are unpickled."""
        self.restore(torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True))

    def save_checkpoint(self, directory: Path) -> None:
        """Write the weights as they are served."""
        self._attached.save(directory)

    def _next_examples(self) -> list[EncodedExample]:
        self._order.position = self.examples_seen
        indices = self._order.take(self._config.effective_batch_size)
        return [self._examples[index] for index in indices]

    def _gradients(
        self, examples: Sequence[EncodedExample], divisor: float
    ) -> tuple[float, torch.Tensor]:
        """Gradients of the step's loss, accumulated; loss and norm of the gradient."""
        self._optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for part in self._micro_batch.split(examples):
            total += self._backward(part, divisor)
            self._on_progress()
        gradients = [weight.grad for _, weight in self._attached.trainable]
        norm = get_total_norm([gradient for gradient in gradients if gradient is not None])
        return total.item() / divisor, norm

    def _divisor(self, examples: Sequence[EncodedExample], tokens: int) -> float:
        """What the step's summed loss is divided by: counted tokens, weighted where asked for.

        A step whose examples all weigh nothing has no gradient, whatever it is divided by.
        """
        if not self._config.quality_weighting:
            return tokens
        return sum(example.weight * example.counted for example in examples) or 1.0

    def _backward(self, examples: Sequence[EncodedExample], divisor: float) -> torch.Tensor:
        """Add one micro-batch's share to the gradients; the sum of its token losses."""
        batch = collate(examples, pad_id=self._pad_id, device=self._device)
        with torch.autocast(
            self._device.type,
            dtype=self._autocast_dtype,
            enabled=self._autocast_dtype is not None,
        ):
            losses, _ = token_losses(
                self._attached.module, batch, weighted=self._config.quality_weighting
            )
        (losses / divisor).backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def _take_back(self) -> None:
        """Undo a step that ran out of memory half-way."""
        self._optimizer.zero_grad()
        self._random.rewind()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _require_finite(self, loss: float, norm: torch.Tensor, learning_rate: float) -> None:
        for name, value in (("loss", loss), ("gradient norm", norm.item())):
            if not math.isfinite(value):
                raise Diverged(
                    f"{name} is {value} at step {self._step + 1} of {self.total_steps}, "
                    f"learning rate {learning_rate:.3g}"
                )

    def _update(self, norm: torch.Tensor) -> None:
        if self._config.gradient_clipping is not None:
            weights = [weight for _, weight in self._attached.trainable]
            clip_grads_with_norm_(weights, self._config.gradient_clipping, norm)
        try:
            self._optimizer.step()
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
            raise DoesNotFit(f"out of memory for the optimizer's moments: {reason}") from None
        self._schedule.step()
        self._optimizer.zero_grad()
        self._step += 1

    def _identity(self) -> dict[str, Any]:
        return {"config": self._config.model_dump_json(), "examples": len(self._examples)}


def _host_copy(tree: Any) -> Any:
    """The same nest of collections, its tensors copied into host memory."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().cpu().clone()
    if isinstance(tree, dict):
        return {key: _host_copy(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_host_copy(value) for value in tree)
    return tree
