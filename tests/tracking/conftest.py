"""wandb holds on to the server that it met first in a process: each test gets a wandb of its own."""

import contextlib
import sys

import pytest


@pytest.fixture(autouse=True)
def own_wandb():
    _forget()  # also what a test of another folder has met
    yield
    _forget()


def _forget():
    if "wandb" in sys.modules:
        import wandb

        with contextlib.suppress(Exception, SystemExit):  # where the test has killed wandb-core
            wandb.teardown()
