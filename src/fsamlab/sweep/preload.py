"""What the server of local jobs imports before its first job: all that a run with the defaults imports.

Importing this module does the work. multiprocessing imports it by name, in the server alone; the jobs are forks of the
server and find the modules there.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from rich.cells import cell_len

from fsamlab.quick_import import uncollected

# torch._dynamo takes as long as torch: torch's optimizers import it at their first use, which would be in every job.
MODULES = ("torch", "torch._dynamo", "fsamlab.run", "fsamlab.sweep.pool")


def load() -> None:
    """Import all modules; leave if the process that started the server has ended, as after a wrong command line.

    Ctrl-C reaches all processes of a terminal. It is ignored here: an interrupted import would only print a traceback,
    and the server ends with the process that started it.
    """
    starter = os.getppid()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uncollected():
            for name in MODULES:
                import_module(name)
                if os.getppid() != starter:
                    sys.exit()
            cell_len("…")  # rich reads its table of widths at the first character that is not a common letter
    finally:
        signal.signal(signal.SIGINT, handler)


load()
