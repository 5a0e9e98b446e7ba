"""Training one trial: one optimizer step after another, and the state for resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_

from hpo.spec.training.compute import MECHANICAL
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.features import Feature, ablated, active
from workers.data.batches.feeder import Feeder
from workers.data.batches.order import make_order
from workers.data.tokens.encoded import EncodedExample
from workers.trial.failures import Diverged, InvalidTrial, StateOfAnotherRun
from workers.trial.loop.averages import Averages
from workers.trial.loop.gradients import Gradients, GradientsOfStep
from workers.trial.loop.length import total_steps
from workers.trial.loop.microbatch import MicroBatch, longest_row
from workers.trial.loop.noise import add_gradient_noise
from workers.trial.loop.objective.code_blocks import CodeBlocks
from workers.trial.loop.objective.objective import Objective
from workers.trial.loop.randomness import RandomStreams
from workers.trial.loop.report import StepReport
from workers.trial.memory import must_fit
from workers.trial.model.attached import AttachedModel
from workers.trial.model.needs import Kind
from workers.trial.model.positions import require_positions
from workers.trial.optimizer.build import make_optimizer
from workers.trial.optimizer.groups import peak_rate
from workers.trial.optimizer.schedule import make_schedule

STATE_FILE = "training_state.pt"
STATE_VERSION = 1
"""Raised whenever a state holds other things than before."""


class TrainingRun:
    """One trial's training, one optimizer step at a time.

    A step either happens whole or, when it raises, not at all: weights,
    moments, averages, data order and random streams are then those of the
    step before. DoesNotFit alone may leave it half taken, and ends the run. All
    randomness depends on the seeds and stays inside the run.
    """

    def __init__(
        self,
        attached: AttachedModel,
        config: TrainingConfig,
        examples: Sequence[EncodedExample],
        *,
        pad_id: int,
        device: torch.device,
        code: CodeBlocks | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the first step; `on_progress` is called after each micro-batch.

        `code` finds code blocks, for the loss that tells them apart. Raises
        InvalidTrial when there is nothing to train on, or not what an option
        needs.
        """
        if not examples:
            raise InvalidTrial(
                f"training.max_length: given {config.max_length}, which leaves no completion in "
                "any training example; allowed: more than the prompts have tokens"
            )
        config = ablated(config)
        require_positions(attached.base, longest_row(config, examples))
        self._attached = attached
        self._config = config
        self._examples = examples
        self._step = 0
        self.total_steps = total_steps(config, len(examples))
        self._order = make_order(config, examples, self.total_steps)
        with must_fit("the optimizer"):
            self._optimizer = make_optimizer(config, attached.trainable)
        self._schedule = make_schedule(config.schedule, self._optimizer, self.total_steps)
        self._random = RandomStreams(config.seed_of("dropout"), device)
        self._micro_batch = MicroBatch.initial(config, examples, device)
        ema = config.regularisation.ema
        self._averages = None if ema is None else Averages(ema, attached.trainable)
        objective = Objective(config, code)
        objective.check(examples)
        self._gradients = Gradients(
            attached,
            Feeder(config, pad_id=pad_id, device=device),
            objective,
            self._random,
            self._optimizer,
            device,
            on_progress,
        )

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
    def epoch(self) -> float:
        """Passes over the training set."""
        return self.examples_seen / len(self._examples)

    @property
    def micro_batch(self) -> int:
        """Rows per forward pass: what was found to fit, not a hyperparameter."""
        return self._micro_batch.size

    @property
    def finished(self) -> bool:
        """Whether the last step has been taken."""
        return self._step >= self.total_steps

    def train_batch(self) -> StepReport:
        """Take one optimizer step over the effective batch.

        Raises Diverged, before the weights change, when loss or gradient is
        not finite, and DoesNotFit when a single row is too much.
        """
        if self.finished:
            raise RuntimeError(f"all {self.total_steps} steps have been taken")
        started = time.perf_counter()
        features = active(self._config, self.epoch)
        indices = self._order.batch(self._step)
        examples = [self._examples[index] for index in indices]
        learning_rate = peak_rate(self._optimizer)
        with self._random:
            found = self._micro_batch.fit(
                lambda: self._gradients.of(examples, features, self._micro_batch.size),
                self._gradients.take_back,
            )
            self._require_finite(found, learning_rate)
            with must_fit("clipping and noise"):
                self._change_gradients(found.norm, features)
            self._update(features)
        if found.losses is not None:
            self._order.observe(indices, found.losses)
        return StepReport(
            step=self._step,
            examples=self.examples_seen,
            loss=found.loss,
            objective=found.objective,
            tokens=sum(example.counted for example in examples),
            input_tokens=sum(example.length for example in examples),
            gradient_norm=found.norm.item(),
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
            "order": self._order.state(),
            "averages": None if self._averages is None else self._averages.state(),
            "scale": self._gradients.scale_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, in a run with the same configuration.

        Raises StateOfAnotherRun, with nothing changed, when configuration or
        number of examples differ.
        """
        mine = self._identity()
        if state["of"] != mine:
            differ = [name for name in mine if state["of"].get(name) != mine[name]]
            raise StateOfAnotherRun(
                f"the saved training state is of another run, with another {', '.join(differ)}"
            )
        self._step = state["step"]
        self._micro_batch.size = state["micro_batch"]
        self._attached.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._random.restore(state["random"])
        self._order.restore(state["order"])
        if self._averages is not None:
            self._averages.restore(state["averages"])
        self._gradients.restore_scale(state["scale"])

    def save_state(self, directory: Path) -> None:
        """Write the state into a folder, for `load_state`."""
        torch.save(self.state(), directory / STATE_FILE)

    def load_state(self, directory: Path) -> None:
        """Restore what `save_state` wrote; only tensors and plain values are unpickled."""
        self.restore(torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True))

    def save_checkpoint(self, directory: Path) -> None:
        """Write the weights as they are served: the averaged ones, once there are any.

        Raises DoesNotFit when there is no room to average or merge them.
        """
        with must_fit("a checkpoint's weights"), self._served():
            self._attached.save(directory)

    @contextmanager
    def _served(self) -> Iterator[None]:
        if self._averages is None or not self._averages.started:
            yield
            return
        with self._averages.applied():
            yield

    def _require_finite(self, found: GradientsOfStep, learning_rate: float) -> None:
        for name, value in (
            ("loss", found.loss),
            ("objective", found.objective),
            ("gradient norm", found.norm.item()),
        ):
            if not math.isfinite(value):
                raise Diverged(
                    f"{name} is {value} at step {self._step + 1} of {self.total_steps}, "
                    f"learning rate {learning_rate:.3g}"
                )

    def _change_gradients(self, norm: torch.Tensor, features: frozenset[Feature]) -> None:
        weights = [weight for _, weight in self._attached.trainable]
        if self._config.gradient_clipping is not None:
            clip_grads_with_norm_(weights, self._config.gradient_clipping, norm)
        noise = self._config.regularisation.gradient_noise
        if noise is not None and "gradient_noise" in features:
            # After clipping, which bounds what the data say, not the noise.
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            add_gradient_noise(gradients, noise, self._step)

    def _update(self, features: frozenset[Feature]) -> None:
        with must_fit("the optimizer's moments"):
            self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        if self._averages is not None and "ema" in features:
            with must_fit("the averaged weights"):
                self._averages.update()
        self._step += 1

    def _identity(self) -> dict[str, Any]:
        config = self._config.model_dump_json(exclude={"compute": MECHANICAL})
        return {
            "version of the state": STATE_VERSION,
            "configuration": config,
            "number of examples": len(self._examples),
        }


def _host_copy(tree: Any) -> Any:
    """The same nest of collections, its tensors copied into host memory."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _host_copy(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_host_copy(value) for value in tree)
    return tree
