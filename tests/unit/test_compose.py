from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.schema import SCHEMA
from storage.workers import PREFIX
from workers.evaluation.sandbox import server
from workers.evaluation.sandbox.run import FILES_MIB
from workers.evaluation.sandbox.sandbox import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(sysconfig.get_path("scripts")) / "docker-compose"
BASE = "docker-compose.yml"
GPU = "docker-compose.gpu.yml"
PASSWORD = {"POSTGRES_PASSWORD": "only-for-this-test"}
WORKERS = ("trial-worker", "evaluation-worker")
OURS = ("study", "dashboard", "sandbox", *WORKERS)

Config = dict[str, Any]


def compose(home: Path, *files: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`config` on the files that ship and the example env file, and on nothing else."""
    options = [f"--file={ROOT / name}" for name in files]
    return subprocess.run(
        [str(BINARY), f"--env-file={ROOT / '.env.example'}", *options, "config", "--format=json"],
        env={"HOME": str(home), "PATH": os.defpath, **variables},
        text=True,
        capture_output=True,
    )


def resolved(home: Path, *files: str, **variables: str) -> Config:
    """The configuration as compose resolves it."""
    done = compose(home, *files, variables={**PASSWORD, **variables})
    assert done.returncode == 0, done.stderr
    config: Config = json.loads(done.stdout)
    return config


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def base(home: Path) -> Config:
    return resolved(home, BASE)


@pytest.fixture(scope="module")
def gpu(home: Path) -> Config:
    return resolved(home, BASE, GPU)


def settings(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a parsed file with the name of the field it stands in."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from settings(value, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from settings(value, name)
    elif isinstance(node, str):
        yield name, node


def test_services(base: Config, gpu: Config) -> None:
    assert set(base["services"]) == set(gpu["services"]) == {"postgres", *OURS}


def test_ports_are_published_on_this_machine_only(base: Config) -> None:
    published = {
        name: [(port["host_ip"], port["published"]) for port in service["ports"]]
        for name, service in base["services"].items()
        if "ports" in service
    }
    assert published == {"dashboard": [("127.0.0.1", "8080")]}


def test_restart_policies(base: Config) -> None:
    assert {name: service["restart"] for name, service in base["services"].items()} == {
        "postgres": "unless-stopped",
        "dashboard": "unless-stopped",
        "trial-worker": "on-failure",
        "evaluation-worker": "on-failure",
        "sandbox": "unless-stopped",
        "study": "no",
    }


def test_what_stays_up_has_a_health_check(base: Config) -> None:
    watched = {name for name, service in base["services"].items() if "healthcheck" in service}
    assert watched == set(base["services"]) - {"study"}


def test_a_workers_health_is_its_session_with_the_database(base: Config) -> None:
    for name in WORKERS:
        *_, code = base["services"][name]["healthcheck"]["test"]
        compile(code, name, "exec")
        assert f"LIKE '{PREFIX}%'" in code


def test_optunas_tables_do_not_land_in_our_schema(base: Config) -> None:
    # The server prefers the schema named like the user, which is ours here.
    assert base["services"]["postgres"]["environment"]["POSTGRES_USER"] == SCHEMA
    assert base["services"]["postgres"]["command"][1:] == ["-c", "search_path=public"]


def test_workers_start_after_the_study_exists(base: Config) -> None:
    for name in ("dashboard", *WORKERS):
        conditions = {
            service: rule["condition"]
            for service, rule in base["services"][name]["depends_on"].items()
            if service != "sandbox"
        }
        assert conditions == {
            "postgres": "service_healthy",
            "study": "service_completed_successfully",
        }


def test_data_lives_on_named_volumes(base: Config) -> None:
    mounts = {
        name: {mount["target"]: mount["source"] for mount in service.get("volumes", [])}
        for name, service in base["services"].items()
    }
    assert mounts["postgres"] == {"/var/lib/postgresql": "pgdata"}
    assert mounts["trial-worker"] == mounts["study"]
    assert mounts["evaluation-worker"] == {**mounts["study"], "/run/sandbox": "sandbox"}
    assert mounts["trial-worker"] == {
        "/var/lib/hpo": "state",
        "/var/cache/huggingface": "models",
        "/results": "results",
        "/studies": str(ROOT / "studies"),
    }
    assert set(base["volumes"]) == {"pgdata", "state", "models", "results", "sandbox"}


def test_study_files_are_mounted_read_only(base: Config) -> None:
    binds = [
        mount
        for service in base["services"].values()
        for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    ]
    assert binds
    assert all(mount["read_only"] for mount in binds)


@pytest.mark.parametrize("file", [BASE, GPU])
def test_no_literal_credentials(file: str) -> None:
    for name, text in settings(yaml.safe_load((ROOT / file).read_text())):
        assert not re.search(r"://[^$/@]*:[^$/@]*@", text), text
        if re.search("PASSWORD|TOKEN|KEY|SECRET", name):
            assert text.startswith("${"), f"{name} is written out"


def test_the_example_holds_no_password() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if "PASSWORD=" in line] == ["POSTGRES_PASSWORD="]


def test_a_password_is_demanded(home: Path) -> None:
    refused = compose(home, BASE, variables={})
    assert refused.returncode != 0
    assert "set it in .env, see .env.example" in refused.stderr


def test_the_example_names_every_variable() -> None:
    used = {
        name
        for file in (BASE, GPU)
        for name in re.findall(r"\$\{([A-Z_]+)", (ROOT / file).read_text())
    }
    shown = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert used <= set(shown)


def test_the_study_is_chosen_by_one_variable(home: Path) -> None:
    services = resolved(home, BASE, STUDY="math-sft-asha")["services"]
    assert services["study"]["command"] == ["study", "create", "math-sft-asha"]
    for name in WORKERS:
        assert services[name]["command"][2:5] == ["--study", "math-sft-asha", "--wait"]


def test_the_database_is_reached_by_name(base: Config) -> None:
    url = "postgresql://hpo:only-for-this-test@postgres:5432/hpo"
    for name in ("study", *WORKERS):
        assert base["services"][name]["environment"]["HPO_DATABASE_URL"] == url


def test_no_gpu_is_asked_for_without_the_override(base: Config) -> None:
    for name in OURS:
        service = base["services"][name]
        assert service["image"] == "hpo:cpu"
        assert service["build"]["args"] == {"ACCELERATOR": "cpu"}
        assert "deploy" not in service
    assert all(base["services"][name]["command"][-1] == "cpu" for name in WORKERS)


def test_the_override_gives_each_worker_its_gpu(gpu: Config) -> None:
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in gpu["services"].items()
        if "deploy" in service
    }
    device = {"capabilities": ["gpu"], "driver": "nvidia"}
    assert reserved == {
        "trial-worker": [{**device, "device_ids": ["0"]}],
        "evaluation-worker": [{**device, "device_ids": ["1"]}],
    }


def test_the_override_changes_the_accelerator_only(base: Config, gpu: Config) -> None:
    for name in OURS:
        service = gpu["services"][name]
        assert service["image"] == "hpo:cuda"
        assert service["build"]["args"] == {"ACCELERATOR": "cuda"}
    for name in WORKERS:
        before, after = (config["services"][name]["command"] for config in (base, gpu))
        assert after == [*before[:-1], "cuda:0"]


def test_the_sandbox_has_nothing(base: Config) -> None:
    sandbox = base["services"]["sandbox"]
    assert sandbox["network_mode"] == "none"
    assert sandbox["read_only"]
    assert sandbox["cap_drop"] == ["ALL"]
    assert "cap_add" not in sandbox
    assert sandbox["security_opt"] == ["no-new-privileges:true"]
    assert not sandbox.get("environment")
    assert "depends_on" not in sandbox
    assert [mount["source"] for mount in sandbox["volumes"]] == ["sandbox"]
    assert sandbox["mem_limit"] == sandbox["memswap_limit"] == str(2 << 30)
    assert sandbox["pids_limit"] == 128
    assert sandbox["tmpfs"] == [f"/tmp:size={FILES_MIB}m,nr_inodes=4096"]


def test_the_sandboxs_server_is_first_and_another_user(base: Config) -> None:
    sandbox = base["services"]["sandbox"]
    assert sandbox["init"] is False
    assert sandbox["user"] == "65534:65534"
    assert sandbox["entrypoint"] == ["python", "-m", server.__name__]
    socket = base["services"]["evaluation-worker"]["environment"][VARIABLE]
    assert sandbox["command"] == [socket]
    assert str(Path(socket).parent) in {mount["target"] for mount in sandbox["volumes"]}
    assert base["services"]["evaluation-worker"]["depends_on"]["sandbox"] == {
        "condition": "service_started",
        "required": True,
    }


def test_only_the_evaluation_worker_reaches_the_sandbox(base: Config) -> None:
    reaching = {
        name
        for name, service in base["services"].items()
        if VARIABLE in service.get("environment", {})
        or any(mount["source"] == "sandbox" for mount in service.get("volumes", []))
    }
    assert reaching == {"evaluation-worker", "sandbox"}


def test_the_image_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
