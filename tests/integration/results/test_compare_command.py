"""`hpo compare` and `hpo trial show` on a played study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from played import ITEMS, PlayedStudy, graded_scores
from typer.testing import CliRunner

from hpo.cli.main import app
from hpo.results.export import write_results
from hpo.spec.errors import HpoError, InputError, OutputError, StudyError

pytestmark = pytest.mark.postgres

Hpo = Callable[..., str]


def command(study: PlayedStudy) -> Hpo:
    """Runs a command on a study, and gives what it printed."""

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--database", study.database.url])
        if isinstance(result.exception, HpoError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture
def hpo(graded: PlayedStudy) -> Hpo:
    return command(graded)


def rows(printed: str) -> list[list[str]]:
    """Cells of the lines, where two blanks part them."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in printed.splitlines()
        if line.strip()
    ]


def test_base_and_best_side_by_side(hpo: Hpo) -> None:
    printed = hpo("compare", "played")
    found = rows(printed)
    assert found[0] == ["study played, generation set: 8 items, greedy"]
    assert found[1] == ["base model", "trial 0, batch 2", "difference"]
    assert found[2] == [
        "accuracy",
        "0.25 (0.125 to 0.875)",
        "0.625 (0.125 to 0.875)",
        "+0.375 (-0.125 to +0.875)",
    ]
    assert ["loss", "2", "0.5", "-1.5"] in found
    assert ["pass@1", "0.25", "0.625", "+0.375"] in found
    assert ["wrong answer", "6", "3", "-3"] in found
    assert ["hard", "0", "0.5", "+0.5"] in found
    assert "+150 % relative" in printed
    assert "4 items became right, 1 became wrong (McNemar's exact p 0.38); 3 as before" in printed


def test_changed_items_are_shown_with_both_answers(hpo: Hpo) -> None:
    few = hpo("compare", "played", "--items", "1").partition("became right, 1 of 4:\n")[2]
    assert few.splitlines() == [
        "item 2 (level easy)",
        "  prompt: What is 2 + 2?",
        "  reference: 4",
        "  base model: wrong answer: It is 7",
        "  trial 0, batch 2: correct: It is 4",
        "",
        "became wrong:",
        "item 0 (level easy)",
        "  prompt: What is 0 + 0?",
        "  reference: 0",
        "  base model: correct: It is 0",
        "  trial 0, batch 2: wrong answer: It is 7",
    ]
    everything = hpo("compare", "played", "--items", "all")
    assert everything.count("\nitem ") == 5
    assert "\nitem " not in hpo("compare", "played", "--items", "0")


def test_two_evaluations_of_a_trial_as_json(hpo: Hpo) -> None:
    content = json.loads(hpo("compare", "played", "0@1", "0", "--json", "--items", "1"))
    assert (content["before"]["step"], content["after"]["step"]) == (1, 2)
    assert content["accuracy"]["difference"] == 0.375
    assert content["accuracy"]["items"] == ITEMS
    improved = content["items"]["improved"]
    assert [change["item"] for change in improved] == [2, 3, 4, 5]
    assert improved[0]["answers_after"][0]["text"] == "It is\n4"
    assert "prompt" not in improved[1]
    same = json.loads(hpo("compare", "played", "best@3", "0@2", "--json"))
    assert same["accuracy"]["difference"] == 0
    assert same["items"] == {"improved": [], "worsened": []}


def test_what_is_not_there_is_refused(hpo: Hpo) -> None:
    for words, error, why in (
        ("first", InputError, "given 'first'; allowed: a trial's number, best or base"),
        ("base@2", InputError, "given step 2 of the base model"),
        ("7", StudyError, "given trial 7, which is not there; allowed: 0 to 0"),
        ("0@9", StudyError, "trial 0 was not evaluated at batch 9; allowed: 1, 2, 3"),
        ("base best --test", StudyError, "the base model has no scores on the test set"),
        ("--items some", InputError, "--items: given 'some'; allowed: all, or a number"),
    ):
        with pytest.raises(error, match=why):
            hpo("compare", "played", *words.split())


def test_a_study_that_has_nothing_to_compare_says_so(graded: PlayedStudy) -> None:
    hpo = command(graded)
    lease = graded.lease()
    with pytest.raises(StudyError, match="trial 1 has no evaluation with a finite loss"):
        hpo("compare", "played", "base", "1")
    # Scored by an earlier version, which kept no outcomes.
    graded.score(lease, 1, None, 0.5, 4)
    with pytest.raises(StudyError, match="trial 1, batch 1 has no graded answers"):
        hpo("compare", "played", "base", "1")
    assert "perplexity" in hpo("trial", "show", "played", "1")


def test_without_graded_answers_the_losses_are_compared(played: PlayedStudy) -> None:
    printed = command(played)("compare", "played")
    assert "no answers are graded, the loss alone is compared" in printed
    assert ["loss", "2", "0.25", "-1.75"] in rows(printed)
    assert command(played)("compare", "played", "1", "0@1", "--json")


def test_a_trial_with_its_evaluations(hpo: Hpo) -> None:
    printed = hpo("trial", "show", "played")
    assert printed.splitlines()[0] == "study played, trial 0: complete: trained all"
    found = rows(printed)
    assert found[7][:5] == ["2 *", "200", "0.5", "0.625 (0.125 to 0.875)", "1"]
    assert ["correct", "5", "62.5%"] in found
    assert ["more than 64", "3", "50", "0.5"] in found
    assert ["easy", "4", "0.75"] in found
    assert "memory: together (there is room for both)" in printed
    assert "trial 0, batch 3:" in hpo("trial", "show", "played", "0", "--step", "3")
    assert "base model:" in hpo("trial", "show", "played", "base")


def test_graded_answers_in_full(hpo: Hpo) -> None:
    printed = hpo("trial", "show", "played", "--item", "7").splitlines()
    assert printed == [
        "study played, trial 0, batch 2",
        "",
        "item 7 (level hard)",
        "  prompt:",
        "  | What is 7 + 7?",
        "  | ",
        "  reference: 14",
        "  answer:",
        "  | It is",
        "  | 7",
        "  graded: wrong answer, score 0; found '7'; 3 tokens",
        "",
    ]
    wrong = hpo("trial", "show", "played", "--category", "wrong_answer", "--answers", "2")
    assert [line for line in wrong.splitlines() if line.startswith("item ")] == [
        "item 0 (level easy)",
        "item 6 (level hard)",
    ]
    assert wrong.endswith("1 more items; show them with --answers 3\n")


def test_a_trial_as_json(hpo: Hpo) -> None:
    content = json.loads(hpo("trial", "show", "played", "best", "--json"))
    assert (content["trial"]["number"], content["shown"]["step"]) == (0, 2)
    assert [one["step"] for one in content["evaluations"]] == [1, 2, 3]
    assert content["answers"] == []
    content = json.loads(hpo("trial", "show", "played", "base", "--json", "--category", "correct"))
    assert content["trial"] is None
    assert [row["answer"] for row in content["answers"]] == ["It is\n0", "It is\n2"]


def test_all_answers_are_written_as_lines(hpo: Hpo, tmp_path: Path) -> None:
    file = tmp_path / "new" / "answers.jsonl"
    hpo("trial", "show", "played", "--save", str(file))
    saved = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["item"] for row in saved] == list(range(ITEMS))
    assert saved[0]["labels"] == {"level": "easy"}
    with pytest.raises(OutputError, match="choose another --save"):
        hpo("trial", "show", "played", "--save", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


def test_answers_that_are_not_there_are_refused(hpo: Hpo) -> None:
    with pytest.raises(InputError, match="--item: given 8; allowed: 0 to 7"):
        hpo("trial", "show", "played", "--item", "8")
    with pytest.raises(InputError, match="given 'crashed'; allowed: correct, wrong_answer"):
        hpo("trial", "show", "played", "--category", "crashed")


def test_results_of_an_earlier_version_are_shown(played: PlayedStudy) -> None:
    hpo = command(played)
    printed = hpo("trial", "show", "played", "0")
    assert ["1", "100", "1", "0.25 (0.125 to 0.875)"] in [row[:4] for row in rows(printed)]
    assert "rank 1 of 1 at 100: goes on" in printed
    assert "nan" in hpo("trial", "show", "played", "2")
    assert "why it was bug" in hpo("trial", "show", "played", "3")
    with pytest.raises(StudyError, match="no graded answers of trial 0, batch 5 are stored"):
        hpo("trial", "show", "played", "0", "--answers", "1")
    with pytest.raises(StudyError, match="nothing was evaluated"):
        hpo("trial", "show", "played", "3", "--answers", "1")


def test_the_base_model_is_beside_the_best(graded: PlayedStudy, tmp_path: Path) -> None:
    hpo = command(graded)
    difference = "against the base model: loss -1.5 (-75 %), accuracy +0.375 (-0.125 to +0.875)"
    for words in (["status", "played"], ["study", "show", "played"]):
        printed = hpo(*words).splitlines()
        assert "base model: loss 2, accuracy 0.25 (0.125 to 0.875)" in printed
        assert "best trial: 0, batch 2: loss 0.5, accuracy 0.625 (0.125 to 0.875)" in printed
        assert difference in printed
    assert "best loss 0.5, base model 2" in hpo("study", "list")
    write_results(graded.view, tmp_path / "results.yaml")
    content = yaml.safe_load((tmp_path / "results.yaml").read_text())
    assert content["base_model"]["accuracy"]["value"] == 0.25
    assert content["base_model"]["categories"] == {"correct": 2, "wrong_answer": 6}
    against = content["best_trial"]["against_base"]
    assert against["loss"]["difference"] == -1.5
    assert (against["accuracy"]["low"], against["accuracy"]["high"]) == (-0.125, 0.875)
    assert against["accuracy"]["mcnemar_p"] == 0.375


def test_a_snapshot_holds_no_single_items(graded: PlayedStudy) -> None:
    snapshot = graded.view.read()
    assert snapshot.base is not None
    assert not {"outcomes", "answers"} & snapshot.base.keys()
    assert snapshot.base["categories"] == graded_scores(2.0, [True] * 2 + [False] * 6)["categories"]
    best = snapshot.best_trial()
    assert best is not None
    assert (best.accuracy_low, best.accuracy_high) == (0.125, 0.875)
    assert best.categories == {"correct": 5, "wrong_answer": 3}
