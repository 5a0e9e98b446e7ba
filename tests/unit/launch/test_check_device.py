from __future__ import annotations

import pytest

from hpo.launch.inputs import check_device
from hpo.spec.errors import DeviceError


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_what_is_always_there(name: str) -> None:
    check_device(name, "--device")


@pytest.mark.parametrize(
    "name", ["", "gpu", "gpu:0", "cuda:", "cuda:x", "cuda:0:1", "CUDA", "cuda "]
)
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        check_device(name, "--device")
    assert str(caught.value) == f"--device: given {name!r}; allowed: auto, cpu, cuda or cuda:N"


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="which is not here; allowed: auto, cpu"):
        check_device("cuda:99", "--device")
