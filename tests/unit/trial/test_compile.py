from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model_lab import LORA, configuration, load, train
from torch._dynamo.exc import BackendCompilerFailed

from hpo.spec.errors import InputError
from workers.data.tokens.encoded import EncodedExample
from workers.tiny import make_model
from workers.trial.failures import InvalidTrial
from workers.trial.model.reusable import ReusableModel

# Torch warns of what it does itself while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]

FULL = {"type": "full"}
SMALL = LORA | {"target_modules": ["q_proj"]}
METHODS = [FULL, LORA]


class Counting:
    """A backend of torch.compile that runs the graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def backend() -> Counting:
    return Counting()


@pytest.fixture
def model(base: Path, backend: Counting) -> ReusableModel:
    loaded = prepared(base, backend)
    backend.graphs = 0
    return loaded


def prepared(folder: Path, backend: Any) -> ReusableModel:
    configs = [configuration(method, compute={"compile": True}) for method in METHODS]
    return load(folder, "float32", *configs, backend=backend)


def losses(
    model: ReusableModel, method: dict[str, Any], examples: list[EncodedExample], **compute: Any
) -> list[float]:
    """Of batches of four, which differ in length."""
    with model.attach(configuration(method, compute=compute)) as attached:
        return train(attached, examples, steps=min(3, len(examples) // 4))


@pytest.mark.parametrize("method", METHODS)
def test_a_second_trial_of_a_kind_compiles_nothing(
    model: ReusableModel,
    backend: Counting,
    examples: list[EncodedExample],
    method: dict[str, Any],
) -> None:
    """All layers and all lengths share their code, and so do trials with another alpha."""
    plain = losses(model, method, examples)
    assert backend.graphs == 0
    first = losses(model, method, examples, compile=True)
    compiled = backend.graphs
    # With a frozen base the first layer alone has an input without gradient.
    assert 1 <= compiled <= 2
    assert losses(model, method, examples, compile=True) == first
    losses(model, FULL if method == FULL else method | {"alpha": 3}, examples, compile=True)
    assert backend.graphs == compiled
    assert first == pytest.approx(plain, rel=1e-5)
    model.verify()


@pytest.mark.exhaustive
def test_trials_of_other_kinds_in_between_keep_what_was_compiled(
    model: ReusableModel, backend: Counting, examples: list[EncodedExample]
) -> None:
    kinds = [FULL, SMALL, SMALL | {"rank": 2}]
    first = [losses(model, method, examples, compile=True) for method in kinds]
    compiled = backend.graphs
    with pytest.raises(KeyboardInterrupt):
        interrupted(model)
    again = [losses(model, method, examples, compile=True) for method in kinds]
    assert backend.graphs == compiled
    assert again == first
    # Without the option nothing is left of it.
    plain = losses(model, FULL, examples)
    assert not any("forward" in vars(module) for module in model.model.modules())
    assert plain == pytest.approx(first[0], rel=1e-5)


def interrupted(model: ReusableModel) -> None:
    with model.attach(configuration(SMALL, compute={"compile": True})):
        raise KeyboardInterrupt


@pytest.mark.exhaustive
def test_more_kinds_of_trials_than_torch_would_keep(
    model: ReusableModel, backend: Counting, examples: list[EncodedExample]
) -> None:
    kinds = [SMALL | {"rank": rank} for rank in range(1, 6)]
    for method in kinds:
        losses(model, method, examples[:4], compile=True)
    compiled = backend.graphs
    assert compiled > 8
    for method in kinds:
        losses(model, method, examples[:4], compile=True)
    assert backend.graphs == compiled


def test_compiled_layers_are_recomputed_where_that_is_asked(
    model: ReusableModel, backend: Counting, examples: list[EncodedExample]
) -> None:
    plain = losses(model, FULL, examples)
    options = {"compile": True, "gradient_checkpointing": True}
    assert losses(model, FULL, examples, **options) == pytest.approx(plain, rel=1e-5)
    assert backend.graphs == 1


def refuse(graph: object, inputs: object) -> Any:
    raise BackendCompilerFailed(refuse, RuntimeError("no compiler found\nmore"), None)


def test_a_machine_without_a_compiler_is_told_of_at_once(base: Path) -> None:
    with pytest.raises(InputError, match=r"compute\.compile: given true; .*no compiler") as caught:
        prepared(base, refuse)
    assert "\n" not in str(caught.value)


def test_inductor_without_a_compiler_is_told_of_at_once(
    base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"compute\.compile: given true"):
        prepared(base, "inductor")


def test_layers_that_do_not_compile_are_the_trial_s_fault(base: Path) -> None:
    calls: list[int] = []

    def first_alone(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        calls.append(1)
        return graph.forward if len(calls) == 1 else refuse(graph, inputs)

    model = prepared(base, first_alone)
    with pytest.raises(InvalidTrial, match=r"compute\.compile: given true; allowed: false"):
        losses(model, FULL, [EncodedExample.completion_only(range(9), 3)] * 12, compile=True)
    model.verify()


def test_a_model_without_common_layers_is_not_compiled(tmp_path: Path) -> None:
    model = prepared(make_model(tmp_path, layers=0), Counting())
    with (
        pytest.raises(InvalidTrial, match=r"compute\.compile: .* no decoder layers"),
        model.attach(configuration(FULL, compute={"compile": True})),
    ):
        pass
