from __future__ import annotations

import pytest
from study_text import BATCH, LEARNING_RATE, METHOD, edited, first, parsed, refused, space_of

from hpo.spec.space import Choices, Parameter, Range, Scalar, SearchSpace
from hpo.spec.training.config import TrainingConfig
from hpo.spec.training.method import FullMethod, LoraMethod

CONDITIONAL = """
optimizer: {type: adamw, learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}
method:
  choices:
    - type: full
    - type: lora
      rank: {choices: [8, 64]}
      alpha: {low: 1, high: 64}
      target_modules: {choices: [all-linear, [q_proj, v_proj]]}
effective_batch_size: {low: 4, high: 16, step: 4}
max_examples: 100
"""


def names(space: SearchSpace) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in space.parameters()}


def resolved(space: SearchSpace, drawn: dict[str, Scalar]) -> TrainingConfig:
    """Resolve with exactly these values; another parameter is a KeyError."""
    asked: set[str] = set()

    def draw(parameter: Parameter) -> Scalar:
        asked.add(parameter.name)
        return drawn[parameter.name]

    config = space.resolve(draw)
    assert asked == drawn.keys()
    return config


def test_plain_values_are_no_parameters() -> None:
    space = SearchSpace.of(parsed(edited("max_batches: 10", "max_batches: 7")).training)
    assert space.parameters() == []
    assert space.resolve(first).max_batches == 7


def test_ranges_keep_their_ends_and_scale() -> None:
    rate = names(space_of(CONDITIONAL))["optimizer.learning_rate"]
    assert rate.node == Range(1e-5, 1e-3, log=True)
    assert rate.path == "optimizer.learning_rate"
    assert not rate.integer


def test_a_whole_number_field_has_a_whole_number_range() -> None:
    found = names(space_of(CONDITIONAL))
    assert found["effective_batch_size"].integer
    assert found["effective_batch_size"].node == Range(4, 16, step=4)
    # Written as whole numbers, but the field is a real number.
    assert not found["method.lora.alpha"].integer


def test_conditional_parameters_are_named_after_their_option() -> None:
    found = names(space_of(CONDITIONAL))
    assert list(found) == [
        "optimizer.learning_rate",
        "method",
        "effective_batch_size",
        "method.lora.rank",
        "method.lora.alpha",
        "method.lora.target_modules",
    ]
    assert found["method.lora.rank"].path == "method.rank"


def test_conditional_parameters_exist_only_with_their_option() -> None:
    space = space_of(CONDITIONAL)
    plain: dict[str, Scalar] = {"optimizer.learning_rate": 1e-4, "effective_batch_size": 8}
    assert resolved(space, plain | {"method": "full"}).method == FullMethod()
    lora: dict[str, Scalar] = {
        "method": "lora",
        "method.lora.rank": 64,
        "method.lora.alpha": 2.5,
        "method.lora.target_modules": "q_proj,v_proj",
    }
    assert resolved(space, plain | lora).method == LoraMethod(
        type="lora", rank=64, alpha=2.5, target_modules=["q_proj", "v_proj"]
    )


def test_a_drawn_whole_float_becomes_a_whole_number() -> None:
    space = space_of(CONDITIONAL)
    config = resolved(
        space, {"optimizer.learning_rate": 1e-4, "effective_batch_size": 8.0, "method": "full"}
    )
    assert repr(config.effective_batch_size) == "8"


def test_options_of_the_same_type_are_told_apart_by_their_place() -> None:
    space = space_of(
        "{optimizer: {learning_rate: 1.0}, effective_batch_size: 1, epochs: 1, method: "
        "{choices: [{type: lora, rank: 4}, {type: lora, rank: {low: 8, high: 16}}]}}"
    )
    assert set(names(space)) == {"method", "method.option-1.rank"}
    assert resolved(space, {"method": "option-0"}).method == LoraMethod(type="lora", rank=4)


def test_choices_nest() -> None:
    space = space_of(
        "{optimizer: {learning_rate: 1.0}, epochs: 1, "
        "effective_batch_size: {choices: [{choices: [8, 16]}, {low: 32, high: 64}]}}"
    )
    assert list(names(space)) == [
        "effective_batch_size",
        "effective_batch_size.option-0",
        "effective_batch_size.option-1",
    ]
    assert sorted(space.extremes("effective_batch_size")) == [8, 16, 32, 64]


def test_null_and_false_are_options_too() -> None:
    space = space_of(
        "{optimizer: {learning_rate: 1.0}, effective_batch_size: 1, epochs: 1, "
        "gradient_clipping: {choices: [null, 1.0]}}"
    )
    assert names(space)["gradient_clipping"].node == Choices((None, 1.0), (None, 1.0))
    assert resolved(space, {"gradient_clipping": None}).gradient_clipping is None


def test_an_empty_list_has_a_name() -> None:
    ablation = "regularisation: {ema: {}}\nablation: {choices: [[], [ema]]}\n"
    node = names(space_of(f"{CONDITIONAL}{ablation}"))["ablation"].node
    assert isinstance(node, Choices)
    assert node.labels == ("none", "ema")


def test_corners_take_every_end_and_every_option() -> None:
    space = space_of(CONDITIONAL)
    assert sorted(space.extremes("effective_batch_size")) == [4, 16]
    assert sorted(space.extremes("optimizer.learning_rate")) == [1e-5, 1e-3]
    assert set(space.extremes("method.type")) == {"full", "lora"}
    # None where the method is full.
    assert set(space.extremes("method.rank")) == {None, 8, 64}


def test_a_field_that_only_one_corner_breaks_is_refused() -> None:
    low = "effective_batch_size: {low: 0, high: 8}"
    assert refused(edited(BATCH, low)) == [
        "training.effective_batch_size: given 0; allowed: greater than 0"
    ]


def test_a_hidden_option_is_checked_too() -> None:
    [line] = refused(
        edited(BATCH, f"{METHOD}{{choices: [{{type: full}}, {{type: lora, rnk: 4}}]}}")
    )
    assert line.startswith("training.method.rnk: given an unknown key; allowed: type, rank, ")
    assert line.endswith("(did you mean rank?)")


@pytest.mark.parametrize(
    ("node", "line"),
    [
        (
            "{low: 1e-3, high: 1e-4}",
            ": given low 0.001 above high 0.0001; allowed: low at most high",
        ),
        (
            "{low: 0, high: 1e-4, log: true}",
            ".low: given 0 with log; allowed: a number above 0 on a log scale",
        ),
        ("{low: 1e-4}", ".high: given nothing; allowed: a number"),
        ("{high: 1e-4}", ".low: given nothing; allowed: a number"),
        ("{low: fast, high: 1}", ".low: given 'fast'; allowed: a number"),
        ("{low: true, high: 1}", ".low: given True; allowed: a number"),
        ("{low: .nan, high: 1}", ".low: given nan; allowed: a number"),
        ("{low: 1e-5, high: .inf}", ".high: given inf; allowed: a number"),
        ("{low: 1e-5, high: 1, log: 2}", ".log: given 2; allowed: true or false"),
        ("{low: 1e-5, high: 1, step: 0}", ".step: given 0; allowed: a number above 0"),
        (
            "{low: 1, high: 2, step: 1, log: true}",
            ".step: given 1 with log; allowed: step or log, not both",
        ),
        ("{choices: []}", ".choices: given []; allowed: a list of one option or more"),
        ("{choices: 3}", ".choices: given 3; allowed: a list of one option or more"),
        ("{choices: [1, 1]}", ".choices: given [1, 1]; allowed: options that differ"),
        ("{choices: [1, 1.0]}", ".choices: given [1, 1.0]; allowed: options that differ"),
        ("{choices: [1], log: true}", ".log: given an unknown key; allowed: choices alone"),
        (
            "{low: 1, high: 2, stpe: 1}",
            ".stpe: given an unknown key; allowed: low, high, log, step (did you mean step?)",
        ),
    ],
)
def test_a_broken_range_is_one_line(node: str, line: str) -> None:
    path = "training.optimizer.learning_rate"
    assert refused(edited(LEARNING_RATE, f"learning_rate: {node}")) == [f"{path}{line}"]


@pytest.mark.parametrize(
    ("node", "given"),
    [
        ("{low: 1, high: 8, step: 0.5}", "1 to 8 in steps of 0.5; allowed: whole numbers"),
        ("{low: 1, high: 8.5}", "8.5; allowed: a whole number"),
    ],
)
def test_a_whole_number_range_has_whole_ends(node: str, given: str) -> None:
    assert refused(edited(BATCH, f"effective_batch_size: {node}")) == [
        f"training.effective_batch_size: given {given}"
    ]


def test_one_value_is_a_range_too() -> None:
    space = space_of(
        "{optimizer: {learning_rate: {low: 0.1, high: 0.1}}, effective_batch_size: 1, epochs: 1}"
    )
    assert space.extremes("optimizer.learning_rate") == [0.1]


def test_an_invalid_section_is_a_programming_error_after_validation() -> None:
    with pytest.raises(ValueError, match="effective_batch_size"):
        SearchSpace.of({"optimizer": {"learning_rate": 1.0}, "epochs": 1})
