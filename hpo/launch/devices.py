"""Which GPUs this machine has, without importing torch."""

from __future__ import annotations

import shutil
import subprocess


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs, by index; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return []
    return shown.stdout.strip().splitlines() if shown.returncode == 0 else []
