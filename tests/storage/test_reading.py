"""Reading files that are damaged."""

import pytest

from fsamlab.storage.reading import Damaged, read_json


def test_a_file_in_the_place_of_a_directory_is_named_itself(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(Damaged, match=r"/run is a file and must be a directory; move it away$"):
        read_json(tmp_path / "run" / "status.json", mend="remove it")
