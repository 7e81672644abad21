import gc
from importlib import import_module

import pytest

from fsamlab.quick_import import uncollected


def test_the_collector_works_again_after_an_import():
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()
    with pytest.raises(ImportError), uncollected():
        import_module("fsamlab.no_such_module")
    assert gc.isenabled()
