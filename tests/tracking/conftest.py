"""wandb holds on to the server that it met first in a process: each test gets a wandb of its own."""

import sys

import pytest


@pytest.fixture(autouse=True)
def forget_wandb():
    yield
    if "wandb" in sys.modules:
        from fsamlab.tracking.wandb_session import kill_service

        kill_service()
