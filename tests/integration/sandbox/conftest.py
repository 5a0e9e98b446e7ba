from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sandbox_lab import NEEDS_ROOT, server, socket_folder, works

from workers.evaluation.sandbox.bubblewrap import BubblewrapSandbox
from workers.evaluation.sandbox.container import ContainerSandbox
from workers.evaluation.sandbox.run import Sandbox
from workers.evaluation.sandbox.sandbox import find_sandbox


@pytest.fixture(scope="session")
def bubblewrap() -> BubblewrapSandbox:
    sandbox = find_sandbox()
    assert isinstance(sandbox, BubblewrapSandbox)
    return sandbox


@pytest.fixture(scope="session")
def container() -> Iterator[ContainerSandbox]:
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    with socket_folder() as folder, server(folder):
        sandbox = ContainerSandbox(str(folder / "socket"))
        assert works(sandbox)
        yield sandbox


@pytest.fixture(params=["bubblewrap", "container"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Each of the two in turn."""
    chosen: Sandbox = request.getfixturevalue(request.param)
    return chosen
