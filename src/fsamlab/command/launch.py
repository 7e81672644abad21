"""The entry of launch.py: check the words, start the work, turn an error into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.experimental.callback import Callback

from fsamlab.config import ConfigError, typed
from fsamlab.config.compose import check_words, register
from fsamlab.config.project import check_project, name_to_jobs
from fsamlab.config.space import spelled
from fsamlab.ranks import place, quiet_torch
from fsamlab.rundir.reading import is_finished
from fsamlab.storage.writing import check_writable
from fsamlab.terminal import output
from fsamlab.terminal.errors import call, report


def enter(main: Callable[[], Any], script: str) -> None:
    """Call a `hydra.main` function as the main function of the program; every user error is one line.

    Args:
        main: the decorated function.
        script: the file of the program; it must belong to the same project as the running code.
    """
    place = Path(script).resolve()
    wrong = call(lambda: check_project(place.parent, place.name))
    if wrong:
        sys.exit(wrong)
    if {"--help", "-h"} & set(sys.argv[1:]):
        from fsamlab.command.help import page

        sys.exit(call(lambda: output.show(page())))
    refused = call(as_a_rank)
    if refused:
        sys.exit(refused)
    name_to_jobs()
    register()
    sys.argv[1:] = [spelled(word) for word in sys.argv[1:]]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its own message and exits

    def checked() -> Any:
        args = get_args_parser().parse_args()
        if args.multirun and (args.cfg or args.info):
            allowed = "shows one run: leave out -m. `fsamlab check` shows the jobs of a sweep"
            raise ConfigError("--cfg" if args.cfg else "--info", args.cfg or args.info, allowed)
        check_words(args.overrides)
        return main()

    # These words only print: a closed pipe may end the program. A training goes on when its output has no reader.
    asks = any(word.split("=")[0] in ("--cfg", "-c", "--info", "-i", "--hydra-help") for word in sys.argv[1:])
    sys.exit(call(checked, work=not asks))


def as_a_rank() -> None:
    """Prepare this process to be one of several ranks of a run, if torchrun or a job of SLURM has started it as one.

    Raises:
        ConfigError: `-m` starts runs of its own, and would do so in each process.
    """
    here = place()
    if here.size == 1:
        return
    if get_args_parser().parse_known_args()[0].multirun:
        allowed = (
            f"starts the runs of a sweep, and here {here.size} processes start one run: leave out -m, or submit the "
            "sweep with hydra/launcher=slurm hydra.launcher.gpus_per_node=N"
        )
        raise ConfigError("--multirun", True, allowed)
    quiet_torch()
    if here.rank > 0:
        sys.argv.append("hydra/job_logging=other_rank")


class CheckBeforeRun(Callback):
    """Hydra callback: check the values and the directory of a single run before anything is written."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Exit with one line if the run cannot start.

        The exit code is 1 if a value or the directory cannot be used. The exit code is 0 if the run has finished and
        its directory is read-only, as an archive or the directory of another user.
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
            if place().rank > 0:
                sys.exit(1)  # rank 0 prints the line
            sys.exit(report(e))  # raises SystemExit: other exceptions of a callback become warnings in Hydra
