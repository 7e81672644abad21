import pytest
from made_runs import frame, one_run


@pytest.fixture
def methods():
    """SGD .5 and .7; SAM .6, .9 and a failed run; F-SAM one seed."""
    return frame(
        one_run("sam", 0, 0.6),
        one_run("sam", 1, 0.9),
        {**one_run("sam", 2, 0.1), "status": "failed"},
        one_run("fsam", 0, 0.8),
        one_run("sgd", 0, 0.5),
        one_run("sgd", 1, 0.7),
    )
