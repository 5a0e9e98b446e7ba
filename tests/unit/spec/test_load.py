from __future__ import annotations

from pathlib import Path

import pytest
from study_text import BATCH, LEARNING_RATE, METHOD, MINIMAL, edited, parsed, refused

from hpo.spec.errors import SpecError, StudyError
from hpo.spec.load import is_file_name, ladder_of, load_study
from hpo.spec.study import AshaPruner


def test_a_study_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(MINIMAL)
    spec = load_study(str(file), {})
    assert (spec.name, spec.budget.trials) == ("tiny", 2)
    assert spec.sampler.type == "tpe"


def test_every_problem_is_told_at_once_with_file_and_path() -> None:
    text = edited("budget: {trials: 2}", "budget: {trials: 0}\npruner: {type: ahsa}\nfoo: 1")
    text = edited(LEARNING_RATE, "learning_rate: {low: 1, high: 0.1}", text)
    text = edited(BATCH, "effective_batch_size: {choices: [8, many]}\n  max_lenght: 5", text)
    text = edited("path: base", 'path: "${NOWHERE}"', text)
    lines = refused(text)
    assert [line.partition(": given ")[0] for line in lines] == [
        "model.path",
        "pruner.type",
        "budget.trials",
        "foo",
        "training.optimizer.learning_rate",
        "training.max_lenght",
        "training.effective_batch_size",
    ]
    assert all("; allowed: " in line for line in lines)
    assert lines[0].endswith(
        "${NOWHERE}, but NOWHERE is not set; allowed: set NOWHERE in the environment"
    )
    assert lines[1].endswith("given 'ahsa'; allowed: 'asha', 'median', 'none'")
    assert lines[2].endswith("given 0; allowed: greater than 0")


def test_a_problem_knows_its_parts() -> None:
    with pytest.raises(SpecError) as caught:
        parsed(edited("trials: 2", "trials: two"))
    [problem] = caught.value.problems
    assert caught.value.file == "study.yaml"
    assert (problem.path, problem.given) == ("budget.trials", "'two'")
    assert problem.allowed == "a whole number"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("trials: 2", "trials: 1.5", "budget.trials: given 1.5; allowed: a whole number"),
        ("trials: 2", "trials: yes", "budget.trials: given True; allowed: a number"),
        (
            LEARNING_RATE,
            "learning_rate: fast",
            "training.optimizer.learning_rate: given 'fast'; allowed: a number",
        ),
        (
            LEARNING_RATE,
            "learning_rate: .inf",
            "training.optimizer.learning_rate: given inf; allowed: a finite number",
        ),
        (
            LEARNING_RATE,
            "learning_rate: on",
            "training.optimizer.learning_rate: given True; allowed: a number",
        ),
        ("{path: base}", "{path: ''}", "model.path: given ''; allowed: some text"),
        ("{path: base}", "{path: [a]}", "model.path: given ['a']; allowed: text"),
        ("{path: base}", "base", "model: given 'base'; allowed: a mapping of keys to values"),
        (
            "name: tiny",
            "name: a/b",
            "name: given 'a/b'; allowed: letters, digits, dots, dashes and underscores, "
            "100 at most, a letter or a digit first",
        ),
        (
            "{batches: 5}",
            "{batches: 5, examples: 9}",
            "evaluation.every: given {'batches': 5, 'examples': 9}; "
            "allowed: either batches or examples",
        ),
        (
            "minimize",
            "maximize",
            "objective: given {'metric': 'loss', 'direction': 'maximize'}; "
            "allowed: direction minimize for metric loss",
        ),
        (
            "metric: loss, direction: minimize",
            "metric: accuracy, direction: maximize",
            "data.generation: given nothing; "
            "allowed: a generation set, which the metric accuracy needs",
        ),
        (
            "  max_batches: 10\n",
            "",
            "training: given no length; allowed: at least one of max_batches, max_examples, epochs",
        ),
        (
            BATCH,
            f"{BATCH}\n  schedule: {{warmup_steps: 1, warmup_ratio: 0.5}}",
            "training.schedule: given {'warmup_steps': 1, 'warmup_ratio': 0.5}; "
            "allowed: warmup_steps or warmup_ratio, not both",
        ),
        (
            BATCH,
            f"{METHOD}{{rank: 4}}",
            "training.method: given {'rank': 4}; allowed: a mapping with the key type",
        ),
        (
            BATCH,
            f"{METHOD}{{type: lorra}}",
            "training.method.type: given 'lorra'; allowed: 'full', 'lora'",
        ),
        (
            BATCH,
            f"{METHOD}lora",
            "training.method: given 'lora'; allowed: a mapping of keys to values",
        ),
        (
            f"  {BATCH}\n",
            "",
            "training.effective_batch_size: given nothing; allowed: a value, which is required",
        ),
        (
            "budget:",
            "devices: {trial: gpu0}\nbudget:",
            "devices.trial: given 'gpu0'; allowed: auto, cpu, cuda or cuda:N",
        ),
        (
            "train: {path: train.jsonl}",
            "train: {path: {choices: [a, b]}}",
            "data.train.path: given {'choices': ['a', 'b']}; allowed: text",
        ),
    ],
)
def test_a_wrong_value_is_one_line(old: str, new: str, line: str) -> None:
    assert refused(edited(old, new)) == [line]


@pytest.mark.parametrize(
    ("old", "new", "path", "meant"),
    [
        ("budget:", "sampler: {type: tpe, sed: 3}\nbudget:", "sampler.sed", "seed"),
        ("budget:", "buget: {}\nbudget:", "buget", "budget"),
        ("max_batches:", "max_batchs: 3\n  max_batches:", "training.max_batchs", "max_batches"),
        (
            LEARNING_RATE,
            f"{LEARNING_RATE}, weigth_decay: 0",
            "training.optimizer.weigth_decay",
            "weight_decay",
        ),
        (
            "loss: {path: valid.jsonl}",
            "loss: {path: valid.jsonl}\n  generation: {path: v, tsak: math}",
            "data.generation.tsak",
            "task",
        ),
    ],
)
def test_an_unknown_key_comes_with_the_known_ones(
    old: str, new: str, path: str, meant: str
) -> None:
    [line] = refused(edited(old, new))
    assert line.startswith(f"{path}: given an unknown key; allowed: ")
    assert line.endswith(f"(did you mean {meant}?)")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "given an empty file; allowed: a mapping of keys to values"),
        ("- a", "given a list; allowed: a mapping of keys to values"),
        (
            "a: b: c",
            "line 1, column 5: given mapping values are not allowed here; allowed: valid YAML",
        ),
        (
            MINIMAL + "name: again\n",
            "line 13, column 1: given the key 'name' a second time; allowed: valid YAML",
        ),
        (
            edited(BATCH, f"{BATCH}\n  {BATCH}"),
            "line 10, column 3: given the key 'effective_batch_size' a second time; "
            "allowed: valid YAML",
        ),
        (
            edited("name: tiny", "name: 2024-13-45"),
            "given month must be in 1..12; allowed: valid YAML",
        ),
        (
            edited("{trials: 2}", "&b {trials: *b}"),
            "given lists or mappings nested too deeply, or within themselves; allowed: valid YAML",
        ),
        (
            "a: " + "[" * 3000,
            "given lists or mappings nested too deeply, or within themselves; allowed: valid YAML",
        ),
    ],
)
def test_broken_yaml_is_one_line(text: str, line: str) -> None:
    assert refused(text) == [line]


def test_characters_that_yaml_forbids_are_one_line() -> None:
    [line] = refused("a: \x00")
    assert line.startswith("given unacceptable character #x0000")


@pytest.mark.parametrize(
    ("number", "value"), [("1e-4", 1e-4), ("5E-6", 5e-6), ("1.e-3", 1e-3), (".5e-3", 5e-4)]
)
def test_numbers_in_scientific_notation_are_numbers(number: str, value: float) -> None:
    training = parsed(edited("1e-4", number)).training
    assert training["optimizer"]["learning_rate"] == value


def test_a_bare_number_may_be_a_name() -> None:
    assert parsed(edited("name: tiny", "name: 12")).name == "12"


def test_merge_keys_may_be_overridden() -> None:
    spec = parsed(
        edited(
            "  train: {path: train.jsonl}\n  loss: {path: valid.jsonl}",
            "  train: &set {path: a.jsonl, samples: 5}\n  loss: {<<: *set, path: b.jsonl}",
        )
    )
    assert (spec.data.loss.path, spec.data.loss.samples) == ("b.jsonl", 5)


def test_variables_are_filled_in() -> None:
    text = edited("path: base", 'path: "${ROOT}/models/${SIZE:-small}"')
    assert parsed(text, ROOT="/data").model.path == "/data/models/small"
    assert parsed(text, ROOT="/data", SIZE="large").model.path == "/data/models/large"
    # A variable that is set to nothing counts as not set.
    assert parsed(text, ROOT="/data", SIZE="").model.path == "/data/models/small"


def test_a_missing_variable_is_told_with_its_field() -> None:
    lines = refused(edited("train.jsonl", '"${GSM8K}/train.jsonl"'))
    assert lines == [
        "data.train.path: given ${GSM8K}, but GSM8K is not set; "
        "allowed: set GSM8K in the environment"
    ]


def test_a_variable_may_hold_a_number() -> None:
    assert parsed(edited("trials: 2", 'trials: "${TRIALS}"'), TRIALS="9").budget.trials == 9


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.yaml: no such study file"):
        load_study(str(tmp_path / "nowhere.yaml"), {})


def test_a_folder_is_no_study_file(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be read: Is a directory"):
        load_study(f"{tmp_path}/", {})


def test_another_encoding_is_told(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(StudyError, match="it is not UTF-8 text"):
        load_study(str(file), {})


def test_an_unknown_preset_is_answered_with_the_presets() -> None:
    with pytest.raises(StudyError) as caught:
        load_study("quick-start", {})
    assert str(caught.value) == (
        "given the study 'quick-start'; allowed: a YAML file or one of the presets "
        "gsm8k-tiny, math-sft-asha, quickstart"
    )


@pytest.mark.parametrize(
    ("study", "file"),
    [("quickstart", False), ("a.yaml", True), ("a.yml", True), ("./a", True), ("a.b", False)],
)
def test_what_looks_like_a_file(study: str, file: bool) -> None:
    assert is_file_name(study) is file


def test_the_first_rung_is_the_first_evaluation_of_the_smallest_batch() -> None:
    spec = parsed(edited(BATCH, "effective_batch_size: {choices: [64, 16, 32]}"))
    assert isinstance(spec.pruner, AshaPruner)
    assert spec.pruner.min_resource == 5 * 16
    by_examples = parsed(edited("{batches: 5}", "{examples: 300}"))
    ladder = ladder_of(by_examples)
    assert ladder is not None
    assert (ladder.min_resource, ladder.reduction_factor) == (300, 3)


def test_a_given_first_rung_stands() -> None:
    spec = parsed(edited("budget:", "pruner: {type: median, min_resource: 7}\nbudget:"))
    ladder = ladder_of(spec)
    assert ladder is not None
    assert ladder.min_resource == 7


def test_without_a_pruner_there_is_no_ladder() -> None:
    assert ladder_of(parsed(edited("budget:", "pruner: {type: none}\nbudget:"))) is None


def test_an_incomplete_spec_has_no_ladder() -> None:
    spec = parsed(MINIMAL).model_copy(update={"pruner": AshaPruner()})
    with pytest.raises(ValueError, match="min_resource"):
        ladder_of(spec)
