from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands_lab import Hpo

import hpo as package
from hpo.results.snapshot import StudyView
from hpo.search.register import find
from storage.database import Database
from storage.embedded import EmbeddedPostgres

pytestmark = pytest.mark.postgres

NOBODY_LISTENS = "postgresql://me:secret@127.0.0.1:1/hpo"
RATE = "learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}"
BATCH = "effective_batch_size: {choices: [16, 32]}"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """The state folder's own server, held open so that each command finds it running."""
    # Not below pytest's folder: concurrent runs close it to the server's user.
    with (
        tempfile.TemporaryDirectory(prefix="hpo-commands-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as running,
    ):
        yield running


@pytest.fixture(scope="module")
def home(server: EmbeddedPostgres) -> Path:
    """The state folder, with the quickstart's inputs in it."""
    folder = server.folder.parent
    ended = Hpo(folder, folder)("validate", "quickstart")
    assert ended.done().endswith("\nvalid\n")
    assert (folder / "quickstart" / "model" / "config.json").is_file()
    assert (folder / "quickstart" / "data" / "train.jsonl").is_file()
    return folder


@pytest.fixture
def hpo(home: Path, tmp_path: Path) -> Hpo:
    return Hpo(home, tmp_path)


@pytest.fixture(scope="module")
def kept(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study that is there before anything goes wrong."""
    maker = Hpo(home, tmp_path_factory.mktemp("kept"))
    file = maker.write("kept")
    assert maker("study", "create", file).done() == "study kept: created\n"
    return file


@pytest.fixture
def unchanged(server: EmbeddedPostgres, kept: Path) -> Iterator[None]:
    """Asserts that what a test did changed no study."""
    with Database.open(server.url) as database:
        before = _content(database)
        yield
        assert _content(database) == before


def _content(database: Database) -> tuple[dict[str, Any], Any]:
    view = StudyView(database, find(database, "kept"))
    return view.read().as_dict(), view.record


# Help and usage


def test_help_is_light(hpo: Hpo) -> None:
    ended = hpo.python("-X", "importtime", "-m", "hpo", "--help")
    assert ended.code == 0
    assert "Hyperparameter search" in ended.out
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in ended.err.splitlines()
    }
    assert "typer" in imported
    assert imported.isdisjoint({"optuna", "torch", "sqlalchemy", "transformers", "vllm", "numpy"})


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "export",
        "validate",
        "status",
        "doctor",
        "study create",
        "study delete",
        "worker trial",
        "worker evaluation",
    ],
)
def test_every_command_has_help(hpo: Hpo, command: str) -> None:
    text = hpo.cold(*command.split(), "--help").done()
    assert "Usage: " in text
    assert "\n  -h, --help" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("run", "Missing argument 'study'"),
        ("export kept", "Missing option '--output'"),
        ("worker trial", "Missing option '--study'"),
        ("run quickstart --dashboard-port many", "'--dashboard-port'"),
        ("run quickstart --lease-seconds 0", "'--lease-seconds'"),
        ("validate quickstart --device gpu", "'--device'"),
        ("status kept --wach", "No such option"),
    ],
)
def test_a_wrong_usage_is_told(hpo: Hpo, arguments: str, words: str) -> None:
    ended = hpo(*arguments.split())
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err


# What the commands do


def test_a_study_from_create_to_delete(hpo: Hpo) -> None:
    file = hpo.write("whole-life")
    assert hpo.cold("study", "create", file).done() == "study whole-life: created\n"
    again = hpo("study", "create", file).done()
    assert again == "study whole-life: exists already, the same study\n"
    assert "whole-life: idle, 0 of 3 trials\n" in hpo("study", "list").done()

    assert "hpo study resume whole-life" in hpo("study", "stop", file).done()
    assert hpo("status", "whole-life").done().startswith("whole-life: stopped, 0 of 3 trials\n")
    # Nothing more will come, so nothing is waited for.
    assert hpo("status", "whole-life", "--watch", "--json").json["state"] == "stopped"
    assert "may go on" in hpo("study", "resume", "whole-life").done()
    assert hpo("status", file, "--json").json["state"] == "idle"

    [line] = hpo("study", "delete", "whole-life").refusal()
    assert line == "the study 'whole-life' was not deleted; --yes deletes unasked"
    assert hpo("status", "whole-life").code == 0
    assert hpo("study", "delete", "whole-life", "--yes").done() == "study whole-life: deleted\n"
    assert "whole-life" not in hpo("study", "list").done()


def test_deleting_takes_the_checkpoints_along(hpo: Hpo, server: EmbeddedPostgres) -> None:
    file = hpo.write("with-checkpoints")
    hpo("study", "create", file).done()
    with Database.open(server.url) as database:
        folder = Path(find(database, "with-checkpoints").checkpoints)
    assert folder.is_relative_to(hpo.home / "checkpoints")
    (folder / "trial-00000").mkdir(parents=True)
    hpo("study", "delete", file, "--yes").done()
    assert not folder.exists()


def test_an_empty_database_lists_no_studies(hpo: Hpo, database_url: str) -> None:
    shown = hpo("study", "list", "--database", database_url).done()
    assert shown == "no studies yet; create one with: hpo run STUDY\n"
    assert hpo("study", "list", "--json", HPO_DATABASE_URL=database_url).json == []


def test_a_study_is_shown(hpo: Hpo, kept: Path) -> None:
    shown = hpo("study", "show", "kept").done()
    assert "study kept: minimize loss, 3 trials, sampler tpe, pruner asha" in shown
    assert "rungs at 160, 320, 640, ... training examples" in shown
    assert "  optimizer.learning_rate: 0.0001 to 0.1, log scale" in shown
    assert "  effective_batch_size: one of 16, 32" in shown
    content = hpo("study", "show", kept, "--json").json
    assert content["specification"]["training"]["effective_batch_size"] == {"choices": [16, 32]}
    listed = hpo("study", "list", "--json").json
    assert [study["state"] for study in listed if study["name"] == "kept"] == ["idle"]


def test_a_status_can_be_read_by_programs(hpo: Hpo, kept: Path) -> None:
    content = hpo("status", "kept", "--json").json
    assert content == {
        "name": "kept",
        "state": "idle",
        "metric": "loss",
        "direction": "minimize",
        "budget": 3,
        "trials": {"RUNNING": 0, "COMPLETE": 0, "PRUNED": 0, "FAIL": 0},
        "workers": [],
        "evaluations": {"open": 1},
        "base": None,
        "best": None,
        "base_test": None,
        "best_test": None,
        "against_base": None,
        "against_base_test": None,
        "history": [],
    }


def test_results_are_exported_at_any_time(hpo: Hpo, kept: Path) -> None:
    assert hpo("export", "kept", "--output", "new/kept.yaml").done() == "written: new/kept.yaml\n"
    content = yaml.safe_load((hpo.folder / "new" / "kept.yaml").read_text())
    assert content["study"]["name"] == "kept"
    assert content["versions"]["hpo"] == package.__version__
    assert (content["best_trial"], content["trials"]) == (None, [])


def test_a_study_file_is_validated(hpo: Hpo) -> None:
    lines = hpo.cold("validate", hpo.write("valid")).done().splitlines()
    assert lines[0].startswith("study valid: minimize loss, 3 trials")
    assert f"model: the folder {hpo.home}/quickstart/model" in lines
    assert "data.train: 2250 in = 2250 kept + 0 dropped" in lines
    assert lines[-1] == "valid"
    elsewhere = hpo.write("valid", ("budget:", "devices: {trial: cuda:99}\nbudget:"))
    assert hpo("validate", elsewhere, "--device", "cuda").done().endswith("\nvalid\n")


def test_a_raised_budget_is_the_same_study(hpo: Hpo) -> None:
    hpo("study", "create", hpo.write("raised")).done()
    more = hpo.write("raised", ("trials: 3", "trials: 30"))
    assert "the same study" in hpo("study", "create", more).done()
    assert hpo("status", "raised", "--json").json["budget"] == 30


def test_the_doctor_looks_at_everything(hpo: Hpo) -> None:
    ended = hpo.cold("doctor")
    lines = ended.out.splitlines()
    assert any(line.startswith("ok      python: 3.") for line in lines)
    assert any(line.startswith("ok      database: embedded, postgresql://") for line in lines)
    for subject in ("optuna", "torch", "vllm", "devices", "state folder", "wandb key"):
        assert any(line[8:].startswith(f"{subject}: ") for line in lines)
    problems = sum(line.startswith("PROBLEM") for line in lines)
    assert lines[-1] == (f"{problems} problem(s)" if problems else "all is well")
    assert ended.code == (1 if problems else 0)


def test_the_doctor_says_what_to_do_about_a_database(hpo: Hpo) -> None:
    ended = hpo("doctor", "--database", NOBODY_LISTENS)
    assert ended.code == 1
    [line] = [line for line in ended.out.splitlines() if "database: " in line]
    assert line.startswith("PROBLEM database: ")
    assert "://me:***@127.0.0.1:1/hpo cannot be used: " in line
    assert "is the server running" in line
    assert "Traceback" not in ended.out + ended.err


# Bad input: in the study file


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "budget:",
            "bugdet: 3\nbudget:",
            "bugdet: given an unknown key; allowed: name, objective, model, data, training, "
            "evaluation, sampler, pruner, budget, tracking, devices, checkpoints "
            "(did you mean budget?)",
        ),
        ("trials: 3", "trials: some", "budget.trials: given 'some'; allowed: a whole number"),
        (
            RATE,
            "learning_rate: {low: 1.0e-1, high: 1.0e-4}",
            "training.optimizer.learning_rate: given low 0.1 above high 0.0001; "
            "allowed: low at most high",
        ),
        (
            RATE,
            "learning_rate: {low: 0, high: 1.0e-4, log: true}",
            "training.optimizer.learning_rate.low: given 0 with log; "
            "allowed: a number above 0 on a log scale",
        ),
        (
            BATCH,
            "effective_batch_size: {choices: []}",
            "training.effective_batch_size.choices: given []; "
            "allowed: a list of one option or more",
        ),
        (
            "budget: {trials: 3}",
            "budget: {trials: 3",
            "line 16, column 1: given expected ',' or '}', but got '<stream end>'; "
            "allowed: valid YAML",
        ),
    ],
    ids=["unknown-key", "wrong-type", "low-above-high", "log-with-0", "empty-choices", "yaml"],
)
def test_a_problem_of_a_study_file_is_one_line(hpo: Hpo, old: str, new: str, line: str) -> None:
    file = hpo.write("kept", (old, new))
    assert hpo("validate", file).refusal() == [f"{file}: {line}"]


@pytest.mark.usefixtures("unchanged")
def test_all_problems_of_a_study_file_are_told_by_every_command(hpo: Hpo) -> None:
    file = hpo.write(
        "kept",
        ("trials: 3", "trials: 0"),
        (RATE, "learning_rate: {low: 1, high: 0.1}"),
        ("evaluation:", "pruning: 1\nevaluation:"),
    )
    expected = hpo("validate", file).refusal()
    assert len(expected) == 3
    for command in (("study", "create"), ("run",), ("study", "delete", "--yes")):
        assert hpo(*command, file).refusal() == expected


@pytest.mark.parametrize("command", ["run", "validate", "study create"])
def test_an_unknown_preset_is_answered_with_the_presets(hpo: Hpo, command: str) -> None:
    assert hpo(*command.split(), "quick-start").refusal() == [
        "given the study 'quick-start'; allowed: a YAML file or one of the presets "
        "gsm8k-tiny, math-sft-asha, quickstart"
    ]


def test_a_missing_study_file_is_told(hpo: Hpo) -> None:
    assert hpo("run", "nowhere.yaml").refusal() == ["nowhere.yaml: no such study file"]


def test_a_preset_names_the_variable_it_needs(hpo: Hpo) -> None:
    lines = hpo("validate", "gsm8k-tiny").refusal()
    assert len(lines) == 2
    assert all("set GSM8K in the environment" in line for line in lines)


# Bad input: models and data


@pytest.mark.parametrize("path", ["/nowhere/model", "here/model"])
@pytest.mark.usefixtures("unchanged")
def test_a_missing_model_folder_is_told(hpo: Hpo, path: str) -> None:
    (hpo.folder / "here").mkdir()
    file = hpo.write("kept", ("INPUTS/model", path))
    assert hpo("study", "create", file).refusal() == [
        f"model.path: given {path!r}, which is not there; allowed: a model folder with "
        "config.json, or a hub name such as Qwen/Qwen2.5-Math-1.5B"
    ]


def test_a_folder_that_is_no_model_is_told(hpo: Hpo) -> None:
    (hpo.folder / "model").mkdir()
    [line] = hpo("validate", hpo.write("new", ("INPUTS/model", "./model"))).refusal()
    given = f"model.path: given '{hpo.folder}/model', a folder without config.json; allowed: "
    assert line.startswith(given)


@pytest.mark.parametrize(
    ("line", "given"),
    [
        (
            '{"prompt": "1+1="}',
            "given no field 'completion'; allowed: a field that is there: 'prompt'",
        ),
        ('{"prompt": "1+1=", ', "given malformed JSON ("),
        ("", "given no rows"),
    ],
    ids=["missing-field", "malformed", "empty"],
)
@pytest.mark.usefixtures("unchanged")
def test_a_bad_data_line_is_told_with_its_number(hpo: Hpo, line: str, given: str) -> None:
    data = hpo.folder / "train.jsonl"
    good = '{"prompt": "1+1=", "completion": "2"}\n'
    data.write_text(f"{good}{good}{line}\n" if line else "")
    file = hpo.write("kept", ("INPUTS/data/train.jsonl", str(data)))
    [told] = hpo("study", "create", file).refusal()
    assert told.startswith(f"{data}:3: {given}" if line else f"{data}: {given}")


def test_all_missing_inputs_are_told_at_once(hpo: Hpo) -> None:
    file = hpo.write(
        "new", ("INPUTS/model", "./model"), ("train.jsonl", "a.jsonl"), ("valid.jsonl", "b.jsonl")
    )
    model, train, loss = hpo("run", file).refusal()
    assert model.startswith("model.path: given './model', which is not there")
    assert "a.jsonl: given no such file; allowed: a data file" in train
    assert "b.jsonl: given no such file; allowed: a data file" in loss


# Bad input: the database and the studies in it


@pytest.mark.parametrize(
    "command",
    ["run FILE", "study create FILE", "status kept"],
)
@pytest.mark.usefixtures("unchanged")
def test_a_database_out_of_reach_is_told(hpo: Hpo, command: str) -> None:
    file = str(hpo.write("kept"))
    words = [file if word == "FILE" else word for word in command.split()]
    [line] = hpo(*words, "--database", NOBODY_LISTENS).refusal()
    assert "://me:***@127.0.0.1:1/hpo cannot be used: " in line
    assert line.endswith("; is the server running, and are host and port right?")
    assert "secret" not in line


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "sqlite:///study.db",
            "sqlite:///study.db is not a Postgres; only Postgres can hold a study",
        ),
        ("mysql://me:secret@host/hpo", "mysql://me:***@host/hpo is not a Postgres"),
        ("localhost", "database URL 'localhost' is malformed"),
    ],
)
def test_another_kind_of_database_is_told(hpo: Hpo, url: str, words: str) -> None:
    [line] = hpo("status", "kept", HPO_DATABASE_URL=url).refusal()
    assert words in line
    assert line.endswith("allowed: postgresql://USER:PASSWORD@HOST:PORT/DATABASE")


@pytest.mark.parametrize("command", ["status", "study delete --yes", "export --output x"])
@pytest.mark.usefixtures("unchanged")
def test_a_study_that_is_not_there_is_answered_with_those_that_are(hpo: Hpo, command: str) -> None:
    [line] = hpo(*command.split(), "kpet").refusal()
    assert line.startswith("given the study 'kpet', which is not in this database; allowed: kept")


@pytest.fixture(scope="module")
def shown(home: Path, kept: Path) -> Any:
    """What is shown of the kept study before anything goes wrong."""
    return Hpo(home, home)("study", "show", "kept", "--json").json


def test_a_name_taken_by_another_study_is_told(hpo: Hpo, shown: Any) -> None:
    file = hpo.write(
        "kept",
        ("budget:", "sampler: {type: random}\nbudget:"),
        ("dtype: float32", "dtype: bfloat16"),
    )
    [line] = hpo("study", "create", file).refusal()
    assert line.startswith("the study 'kept' exists with other settings (")
    assert "model.dtype: is 'float32', given 'bfloat16'; " in line
    assert "sampler.type: is 'tpe', given 'random'" in line
    assert line.endswith(
        "give the file another name, or remove the old study with: hpo study delete kept"
    )
    assert hpo("study", "show", "kept", "--json").json == shown


def test_a_changed_search_space_is_told(hpo: Hpo, shown: Any) -> None:
    [line] = hpo("run", hpo.write("kept", ("[16, 32]", "[16, 32, 64]"))).refusal()
    assert line == (
        "the study 'kept' exists with another search space or training "
        "(training.effective_batch_size: is {'choices': [16, 32]}, "
        "given {'choices': [16, 32, 64]}); "
        "give the file another name, or remove the old study with: hpo study delete kept"
    )
    assert hpo("study", "show", "kept", "--json").json == shown


@pytest.mark.usefixtures("unchanged")
def test_edited_data_is_another_study(hpo: Hpo) -> None:
    data = hpo.folder / "train.jsonl"
    original = (hpo.home / "quickstart" / "data" / "train.jsonl").read_text()
    data.write_text(original + '{"prompt": "1+1=", "completion": "2"}\n')
    file = hpo.write("kept", ("INPUTS/data/train.jsonl", str(data)))
    [line] = hpo("study", "create", file).refusal()
    assert "exists with other settings (data.train.path: is 'sha256:" in line
    # The same content elsewhere is the same study.
    data.write_text(original)
    assert "the same study" in hpo("study", "create", hpo.write("kept")).done()


def test_a_moved_folder_is_the_same_study(hpo: Hpo) -> None:
    hpo("study", "create", hpo.write("moved")).done()
    shutil.copytree(hpo.home / "quickstart", hpo.folder / "copy")
    text = hpo.write("moved").read_text().replace(f"{hpo.home}/quickstart", "copy")
    (hpo.folder / "study.yaml").write_text(text)
    assert "the same study" in hpo("study", "create", "study.yaml").done()


def test_a_study_deleted_on_the_dashboard_can_be_removed(hpo: Hpo, database_url: str) -> None:
    import optuna

    hpo("study", "create", hpo.write("half"), HPO_DATABASE_URL=database_url).done()
    with Database.open(database_url) as database:
        optuna.delete_study(study_name="half", storage=database.optuna_storage())
    [line] = hpo("status", "half", "--database", database_url).refusal()
    assert "remove the rest of it with: hpo study delete half" in line
    listed = hpo("study", "list", "--database", database_url)
    assert (listed.code, "half" in listed.err, "Traceback" in listed.err) == (0, True, False)
    deleted = hpo("study", "delete", "half", "--yes", "--database", database_url)
    assert deleted.done() == "study half: deleted\n"


# Bad input: devices and outputs


@pytest.mark.parametrize(("role", "command"), [("trial", "run"), ("evaluation", "validate")])
@pytest.mark.usefixtures("unchanged")
def test_a_device_that_is_not_there_is_told(hpo: Hpo, role: str, command: str) -> None:
    inside = hpo.write("kept", ("budget:", f"devices: {{{role}: cuda:99}}\nbudget:"))
    [line] = hpo(command, inside).refusal()
    assert line.startswith(
        f"devices.{role}: given 'cuda:99', which is not here; allowed: auto, cpu"
    )
    [line] = hpo("run", hpo.write("kept"), f"--{role}-device", "cuda:99").refusal()
    assert line.startswith(f"--{role}-device: given 'cuda:99', which is not here; allowed: ")
    assert not (hpo.folder / "results").exists()


def test_what_is_no_device_is_told(hpo: Hpo) -> None:
    [line] = hpo("run", hpo.write("kept"), "--trial-device", "cuda:x").refusal()
    assert line == "--trial-device: given 'cuda:x'; allowed: auto, cpu, cuda or cuda:N"


@pytest.mark.parametrize("kind", ["trial", "evaluation"])
def test_a_worker_refuses_a_device_that_is_not_there(hpo: Hpo, kept: Path, kind: str) -> None:
    [line] = hpo("worker", kind, "--study", "kept", "--device", "cuda:99").refusal()
    assert line.startswith("--device: given 'cuda:99', which is not here; allowed: auto, cpu")


def test_a_worker_refuses_a_study_that_is_not_there(hpo: Hpo, kept: Path) -> None:
    [line] = hpo("worker", "trial", "--study", "kpet", "--device", "cpu").refusal()
    assert line.startswith("given the study 'kpet', which is not in this database; allowed: kept")


@pytest.mark.parametrize("output", ["/dev/null/results", "study.yaml"])
@pytest.mark.usefixtures("unchanged")
def test_an_output_folder_that_cannot_be_written_is_told(hpo: Hpo, output: str) -> None:
    file = hpo.write("kept")
    before = file.read_text()
    [line] = hpo("run", file, "--output", output).refusal()
    assert line.startswith(
        f"the output folder {(hpo.folder / output).resolve()} cannot be written: "
    )
    assert line.endswith("; choose another one with --output")
    assert file.read_text() == before


@pytest.mark.parametrize("output", ["study.yaml/kept.yaml", "."])
@pytest.mark.usefixtures("unchanged")
def test_a_results_file_that_cannot_be_written_is_told(hpo: Hpo, output: str) -> None:
    file = hpo.write("kept")
    before = file.read_text()
    [line] = hpo("export", "kept", "--output", output).refusal()
    assert line.startswith(f"the results cannot be written to {output}: ")
    assert line.endswith("; choose another --output")
    assert file.read_text() == before


def test_a_state_folder_that_cannot_be_written_is_told(hpo: Hpo) -> None:
    [made] = hpo("run", "quickstart", HPO_HOME="/dev/null/home").refusal()
    assert made.startswith("the state folder /dev/null/home cannot be written: ")
    assert made.endswith("choose another one with HPO_HOME")
    [started] = hpo("study", "list", HPO_HOME="/dev/null/home").refusal()
    assert started.startswith("embedded Postgres in /dev/null/home/postgres: ")
