"""A training section beside the data that was found."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpo.launch.fitting import require_fit
from hpo.spec.errors import SpecError
from hpo.spec.load import parse_study
from workers.data.preparing.report import DataReport, Lengths, SetReport, Truncation

STUDY = """
name: tiny
objective: {{metric: loss, direction: minimize}}
model: {{path: base}}
data:
  train: {{path: train.jsonl}}
  loss: {{path: valid.jsonl}}
training:
  optimizer: {{type: adamw, learning_rate: 1e-4}}
  effective_batch_size: 8
  max_batches: {{choices: [10, 40]}}
  {training}
evaluation: {{every: {{batches: 5}}}}
budget: {{trials: 2}}
"""


def report(name: str, kept: int, dropped: int = 0) -> SetReport:
    """A set of so many examples, of which a limit of 16 tokens leaves out some."""
    lengths = Lengths(kept, kept, (1, 1, 1, 1, 1, 1), (), (Truncation(16, 0, dropped),))
    return SetReport(name, (), kept, kept, kept, kept, kept, {}, {}, {}, {}, (), lengths)


def refused(training: str, *sets: SetReport) -> list[str]:
    spec = parse_study(STUDY.format(training=training), "study.yaml", {})
    try:
        require_fit(spec, DataReport("", {}, {}, sets), "study.yaml")
    except SpecError as error:
        return str(error).splitlines()
    return []


def test_a_limit_that_leaves_nothing_of_a_set_is_refused() -> None:
    for part, other in (("train", "loss"), ("loss", "train")):
        assert refused("max_length: 16", report(part, 9, 9), report(other, 9)) == [
            "study.yaml: training.max_length: given 16; allowed: more, as nothing that is learned "
            f"is left of data.{part} there"
        ]
    assert refused("max_length: 16", report("train", 9, 8), report("loss", 9)) == []


@pytest.mark.parametrize(("examples", "told"), [(80, []), (81, ["80"]), (800, ["80", "320"])])
def test_a_feature_that_begins_after_the_end_is_refused(examples: int, told: list[str]) -> None:
    averages = "regularisation: {ema: {warmup_epochs: 0.9}}"
    lines = refused(averages, report("train", examples), report("loss", 9))
    assert [line.split(" epochs; ")[0].rpartition(" ")[2] for line in lines] == [
        f"{int(seen) / examples:.3g}" for seen in told
    ]
    assert all("training.regularisation.ema.warmup_epochs: given 0.9" in line for line in lines)


def test_a_set_for_each_field_that_is_trained_on_is_looked_at() -> None:
    text = STUDY.replace("loss: {{path: valid.jsonl}}", "loss: {{path: v.jsonl, completion: a}}")
    training = "completion: {choices: [a, b]}\n  regularisation: {ema: {warmup_epochs: 0.9}}"
    spec = parse_study(text.format(training=training), "study.yaml", {})
    sets = (report("train on a", 80), report("train on b", 800), report("loss", 9))
    with pytest.raises(SpecError) as caught:
        require_fit(spec, DataReport("", {}, {}, sets), "study.yaml")
    # Ten batches of 8 are one epoch of the first field's set and a tenth of the other's.
    assert ["0.1 epochs" in problem.given for problem in caught.value.problems] == [True]


def test_looking_at_the_data_needs_no_heavy_library() -> None:
    """They would cost every command seconds."""
    code = (
        "import sys, hpo.launch.fitting, workers.trial.epochs, workers.data.preparing.recipe; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
