"""A Docker engine of the test's own, and the base images it needs.

The engine keeps everything below one folder, makes no bridge and no firewall
rule, and is stopped by its own process id. Base images are pulled; where they
cannot be, look-alikes are made from Debian's packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOOKALIKES = Path(__file__).parent / "lookalikes"
PULL_SECONDS = 300
START_SECONDS = 60
STOP_SECONDS = 120


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def install_missing() -> None:
    """Install Debian's packages for the engine and the look-alikes where they lack."""
    wanted = {"dockerd": "docker.io", "iptables": "iptables", "debootstrap": "debootstrap"}
    packages = [package for program, package in wanted.items() if shutil.which(program) is None]
    if packages:
        say(f"installing {', '.join(packages)}")
        quiet(["apt-get", "update"])
        quiet(["apt-get", "install", "--yes", "--no-install-recommends", *packages])


def quiet(command: list[str], env: dict[str, str] | None = None) -> str:
    """Run a command and return its output, which is shown only if it fails.

    Raises:
        SystemExit: The command failed.
    """
    done = subprocess.run(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


@dataclass(frozen=True)
class Engine:
    """A running Docker engine."""

    environment: dict[str, str]
    """Environment that leads a client to this engine and to no other."""

    def docker(self, *arguments: str) -> str:
        """Run the client and return what it printed."""
        return quiet([client(), *arguments], self.environment)

    def build(self, tag: str, context: Path, *options: str) -> None:
        """Build an image; on the host's network, the engine having none of its own."""
        self.docker("build", "--network=host", f"--tag={tag}", *options, str(context))

    def pull(self, image: str) -> bool:
        """Pull an image; False where that is not possible."""
        command = [client(), "pull", "--quiet", image]
        try:
            done = subprocess.run(
                command, env=self.environment, capture_output=True, timeout=PULL_SECONDS
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def client() -> str:
    """The engine's own client, whichever other comes first on the PATH."""
    packaged = Path("/usr/bin/docker")
    return str(packaged) if packaged.exists() else "docker"


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """Start an engine that keeps everything below `folder`; stop it at the end."""
    address = f"unix://{folder}/docker.sock"
    command = [
        "dockerd",
        f"--host={address}",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/docker.pid",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
    ]
    engine = Engine(client_environment(folder, address))
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(engine, daemon, folder / "dockerd.log")
        yield engine
    finally:
        daemon.terminate()
        daemon.wait(STOP_SECONDS)
        unmount_below(folder)


def unmount_below(folder: Path) -> None:
    """Undo the mounts that an engine leaves, so that its folder can be removed."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted(points, reverse=True):
        if Path(point).is_relative_to(folder):
            quiet(["umount", point])


def client_environment(folder: Path, address: str) -> dict[str, str]:
    """This process's environment without its own Docker settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    config = folder / "client"
    return {
        **kept,
        "DOCKER_HOST": address,
        "DOCKER_BUILDKIT": "1",
        "DOCKER_CONFIG": str(config),
    }


def wait_for(engine: Engine, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the engine answers.

    Raises:
        SystemExit: It ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and daemon.poll() is None:
        asked = subprocess.run([client(), "info"], env=engine.environment, capture_output=True)
        if asked.returncode == 0:
            return
        time.sleep(0.2)
    raise SystemExit(f"dockerd does not answer\n{log.read_text()}")


def provide_bases(engine: Engine, folder: Path) -> None:
    """Make `python:3.11-slim` and `postgres:18` present, pulled or as look-alikes."""
    images = {"python:3.11-slim": "python.Dockerfile", "postgres:18": "postgres.Dockerfile"}
    missing = {image: recipe for image, recipe in images.items() if not engine.pull(image)}
    if not missing:
        return
    say(f"{', '.join(missing)} cannot be pulled: making look-alikes")
    import_debian(engine, folder)
    for image, recipe in missing.items():
        engine.build(image, LOOKALIKES, f"--file={LOOKALIKES / recipe}")


def import_debian(engine: Engine, folder: Path) -> None:
    """Make a minimal `debian:bookworm` from the packages' mirror."""
    root = folder / "bookworm"
    quiet(["debootstrap", "--variant=minbase", "bookworm", str(root)])
    archive = folder / "bookworm.tar"
    quiet(["tar", f"--directory={root}", "--create", f"--file={archive}", "."])
    engine.docker("import", str(archive), "debian:bookworm")
    shutil.rmtree(root)
    archive.unlink()
