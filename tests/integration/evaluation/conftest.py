from __future__ import annotations

from pathlib import Path

import pytest

from workers.evaluation.engines.environment import prepare_environment


def pytest_configure(config: pytest.Config) -> None:
    for warning in (
        # torch's own modules, when vLLM imports its compiler.
        "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
        # vLLM looks at every attribute of torch.distributed.
        "ignore:`torch.distributed.reduce_op` is deprecated:FutureWarning",
    ):
        config.addinivalue_line("filterwarnings", warning)


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    prepare_environment("cpu", str(Path.cwd()))
