from __future__ import annotations

from typing import Any

import pytest
from study_text import BATCH, MINIMAL, edited, parsed, refused

from hpo.spec.errors import SpecError
from hpo.spec.rules import require_device
from hpo.spec.space import SearchSpace
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.devices import TrainingDevice, device_problems
from hpo.spec.training.features import ablated, active, switched_on
from hpo.spec.training.method import LoraMethod

EVERYTHING: dict[str, Any] = {
    "regularisation": {
        "label_smoothing": 0.05,
        "rdrop": {"alpha": 0.05},
        "ema": {"decay": 0.998, "warmup_epochs": 1},
        "gradient_noise": {"scale": 0.01},
        "neftune": {"alpha": 5},
        "code_loss": {"weight": 0.02},
    },
    "order": {
        "curriculum": {"start_fraction": 0.7},
        "dynamic_curriculum": {"warmup_epochs": 3},
    },
    "quality_weighting": True,
}


RATIO = "training.method.alpha_ratio"


def config(**fields: Any) -> TrainingConfig:
    plain: dict[str, Any] = {
        "optimizer": {"learning_rate": 1e-4},
        "effective_batch_size": 8,
        "epochs": 20,
    }
    return TrainingConfig.model_validate({**plain, **fields})


def with_training(text: str) -> str:
    """The minimal study with more lines in its training section."""
    return edited(BATCH, f"{BATCH}\n  {text}")


def test_alpha_is_a_number_or_a_multiple_of_the_rank() -> None:
    assert LoraMethod(type="lora").scale_alpha == 32
    assert LoraMethod(type="lora", rank=8, alpha=4).scale_alpha == 4
    assert LoraMethod(type="lora", rank=8, alpha_ratio=2).scale_alpha == 16
    lines = refused(with_training("method: {type: lora, alpha: 8, alpha_ratio: 2}"))
    assert lines == [f"{RATIO}: given 2; allowed: alpha or alpha_ratio, not both"]


def test_features_are_found_by_name() -> None:
    assert switched_on(config()) == frozenset()
    assert len(switched_on(config(**EVERYTHING))) == 9


def test_features_begin_at_their_epoch() -> None:
    given = config(**EVERYTHING, from_epoch={"label_smoothing": 2, "rdrop": 4, "ema": 4})
    waiting = {"label_smoothing", "rdrop", "ema", "dynamic_curriculum"}
    assert active(given, 0) == switched_on(given) - waiting
    assert "label_smoothing" not in active(given, 1.999)
    assert "label_smoothing" in active(given, 2)
    # The dynamic curriculum has a warm-up of its own.
    assert "dynamic_curriculum" in active(given, 3)
    assert "rdrop" not in active(given, 3.5)
    assert active(given, 4) == switched_on(given)


def test_the_later_beginning_of_the_averages_counts() -> None:
    averages = {"regularisation": {"ema": {"warmup_epochs": 3}}}
    assert "ema" not in active(config(**averages, from_epoch={"ema": 1}), 2)
    assert "ema" in active(config(**averages, from_epoch={"ema": 1}), 3)


def test_ablation_takes_features_out() -> None:
    names = ["rdrop", "gradient_noise", "dynamic_curriculum", "code_loss", "label_smoothing"]
    rest = ablated(config(**EVERYTHING, ablation=names, from_epoch={"rdrop": 4}))
    left = {"ema", "neftune", "curriculum", "quality_weighting"}
    assert switched_on(rest) == left
    assert rest == TrainingConfig.model_validate(rest.model_dump())
    assert active(rest, 10) == left
    assert ablated(rest) is rest


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "packing: true\n  regularisation: {rdrop: {alpha: 0.1}}",
            "training.packing: given true with regularisation.rdrop; allowed: false with R-Drop",
        ),
        (
            "ablation: [ema]",
            "training.ablation: given ema; allowed: features that are given (none)",
        ),
        (
            "from_epoch: {neftune: 2}",
            "training.from_epoch.neftune: given 2; allowed: nothing where the feature is off",
        ),
        (
            "epochs: 2\n  regularisation: {ema: {warmup_epochs: 2}}",
            "training.regularisation.ema.warmup_epochs: given 2 where a trial ends after 2 epochs; "
            "allowed: less",
        ),
        (
            "epochs: 3\n  regularisation: {label_smoothing: 0.1}\n"
            "  from_epoch: {label_smoothing: 3}",
            "training.from_epoch.label_smoothing: given 3 where a trial ends after 3 epochs; "
            "allowed: less",
        ),
        (
            "order: {length_buckets: 4, curriculum: {}}",
            "training.order.length_buckets: given 4 with order.curriculum; allowed: 0",
        ),
        (
            "compute: {attention: flash_attention_2, precision: fp32}",
            "training.compute.attention: given 'flash_attention_2' with precision fp32",
        ),
        (
            "schedule: {type: cosine, cycles: 4}",
            "training.schedule.cycles: given 4 with cosine; allowed: only with type",
        ),
        (
            "schedule: {type: wsd, warmup_ratio: 0.6, decay_ratio: 0.5}",
            "training.schedule.decay_ratio: given 0.5; allowed: at most what the warm-up leaves",
        ),
        (
            "method: {type: lora, base: 4bit, dora: true}",
            "training.method.base: given '4bit' with DoRA or trained biases; allowed: model",
        ),
        (
            "compute: {micro_batch: {choices: [1, 2]}}",
            "training.compute.micro_batch: given a range or choices; allowed: one number",
        ),
    ],
)
def test_options_that_exclude_each_other_are_refused(text: str, line: str) -> None:
    lines = refused(with_training(text))
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_a_feature_that_is_searched_beside_null_cannot_wait_for_its_epoch() -> None:
    searched = "regularisation: {rdrop: {choices: [null, {alpha: 0.1}]}}\n  from_epoch: {rdrop: 1}"
    lines = refused(with_training(searched))
    assert len(lines) == 1
    remedy = "ablation: {choices: [[], [rdrop]]}"
    assert remedy in lines[0]
    given = f"regularisation: {{rdrop: {{alpha: 0.1}}}}\n  from_epoch: {{rdrop: 1}}\n  {remedy}"
    parsed(with_training(given))


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (
            "checkpoints: {keep: all, keep_last: 2}",
            "checkpoints.keep_last: given 2; allowed: 0 with keep: all",
        ),
        (
            "tracking: {log_every: 5}",
            "tracking.log_every: given 5; allowed: nothing without tracking.wandb",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(section: str, line: str) -> None:
    lines = refused(f"{with_training('seed: 1')}{section}\n")
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_flash_attention_needs_a_model_in_half_precision() -> None:
    text = with_training("compute: {attention: flash_attention_2}")
    assert parsed(text).training["compute"] == {"attention": "flash_attention_2"}
    lines = refused(text.replace("path: base", "path: base, dtype: float32"))
    assert lines[0].startswith("training.compute.attention: given 'flash_attention_2'; allowed: ")


def test_ablated_features_exclude_nothing() -> None:
    text = "packing: true\n  regularisation: {rdrop: {alpha: 0.1}}\n  ablation: [rdrop]"
    assert parsed(with_training(text)).training["packing"] is True


def test_two_choices_that_exclude_each_other_are_found_when_the_file_is_read() -> None:
    text = (
        "packing: {choices: [false, true]}\n"
        "  regularisation: {rdrop: {choices: [null, {alpha: {low: 0.01, high: 0.5}}]}}"
    )
    lines = refused(with_training(text))
    assert [line.partition(";")[0] for line in lines] == [
        "training.packing: given true with regularisation.rdrop"
    ]


def test_a_mapping_beside_null_is_called_on() -> None:
    text = "rdrop: {choices: [null, {alpha: {low: 0.01, high: 0.5}}]}"
    space = SearchSpace.of(parsed(with_training(f"regularisation: {{{text}}}")).training)
    names = [parameter.name for parameter in space.parameters()]
    assert names == ["regularisation.rdrop", "regularisation.rdrop.on.alpha"]
    assert space.parameters()[0].node.labels == (None, "on")  # type: ignore[union-attr]


CPU, GPU = TrainingDevice("cpu"), TrainingDevice("cuda")
BARE = TrainingDevice("cuda", bitsandbytes=False, flash_attention=False)


@pytest.mark.parametrize(
    ("fields", "path", "refusing"),
    [
        ({"compute": {"precision": "fp16"}}, "compute.precision", [CPU]),
        ({"compute": {"tf32": True}}, "compute.tf32", [CPU]),
        ({"compute": {"pin_memory": True}}, "compute.pin_memory", [CPU]),
        ({"compute": {"attention": "flash_attention_2"}}, "compute.attention", [CPU, BARE]),
        ({"optimizer": {"learning_rate": 1, "offload": 0.5}}, "optimizer.offload", [CPU]),
        (
            {"optimizer": {"type": "paged-adamw", "learning_rate": 1}},
            "optimizer.type",
            [CPU, BARE],
        ),
        ({"method": {"type": "lora", "base": "4bit"}}, "method.base", [CPU, BARE]),
        ({"compute": {"precision": "bf16", "compile": True}}, "", []),
    ],
)
def test_options_need_their_device(
    fields: dict[str, Any], path: str, refusing: list[TrainingDevice]
) -> None:
    for device in (CPU, GPU, BARE):
        found = [problem.path for problem in device_problems(config(**fields), device)]
        assert found == ([path] if device in refusing else [])


def test_a_study_is_refused_for_a_device_with_every_reason() -> None:
    text = (
        "compute: {precision: {choices: [bf16, fp16]}}\n"
        "  method: {choices: [{type: full}, {type: lora, base: 4bit}]}"
    )
    spec = parsed(with_training(text))
    require_device(spec, GPU, "study.yaml")
    with pytest.raises(SpecError) as caught:
        require_device(spec, CPU, "study.yaml")
    lines = str(caught.value).splitlines()
    assert [line.partition("; allowed")[0] for line in lines] == [
        "study.yaml: training.compute.precision: given 'fp16' on a CPU",
        "study.yaml: training.method.base: given '4bit' on a CPU",
    ]


def test_an_optimizer_without_a_type_is_adamw() -> None:
    text = MINIMAL.replace("type: adamw, ", "")
    assert "type" not in text
    assert "type" not in parsed(text).training["optimizer"]
    assert config().optimizer.type == "adamw"
