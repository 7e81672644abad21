"""The entry of launch.py: the words are checked, the work starts, an error becomes one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.experimental.callback import Callback

from fsamlab.config import typed
from fsamlab.config.compose import check_words, register
from fsamlab.config.project import check_project
from fsamlab.rundir.reading import is_finished
from fsamlab.storage.writing import check_writable
from fsamlab.terminal import output
from fsamlab.terminal.errors import call, report


def enter(main: Callable[[], Any], script: str) -> None:
    """Call a `hydra.main` function as the program's main: one line for each user error, exit code set.

    Args:
        script: the program's file, which has to belong to the project of the code that runs.
    """
    place = Path(script).resolve()
    wrong = call(lambda: check_project(place.parent, place.name))
    if wrong:
        sys.exit(wrong)
    if {"--help", "-h"} & set(sys.argv[1:]):
        from fsamlab.command.help import page

        sys.exit(call(lambda: output.show(page())))
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own message and exits

    def checked() -> Any:
        check_words(get_args_parser().parse_args().overrides)
        return main()

    asks = any(word.split("=")[0] in ("--cfg", "-c", "--info", "-i", "--hydra-help") for word in sys.argv[1:])
    sys.exit(call(checked, work=not asks))


class CheckBeforeRun(Callback):
    """Hydra callback: a single run's values and its directory are checked before anything is written."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Leave with one line: with exit code 1 when a value or the directory cannot be used.

        With 0 when the run has finished and its directory is closed to writing: an archive, or another user's.
        """
        try:
            typed(config)
            directory = Path(config.hydra.run.dir)
            if directory.exists() and not os.access(directory, os.W_OK):
                if config.force or not is_finished(directory):
                    raise PermissionError(errno.EACCES, "the run's directory cannot be written", str(directory))
                print(f"already finished: {directory} (read-only)")
                sys.exit(0)
            if (directory / "run.log").exists():
                check_writable(directory / "run.log")
        except Exception as e:
            sys.exit(report(e))  # SystemExit: Hydra turns a callback's other exceptions into warnings
