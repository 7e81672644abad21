"""`pytest -m gpu` on a machine with a GPU: the tests of this folder; most have a twin on the CPU."""

import os

import pytest
from support.devices import device_named

# Before the first product on the GPU: cuBLAS reads the variable once, and is deterministic only with it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def device(request):
    """The device that the test's parameter names."""
    return device_named(request.param)
