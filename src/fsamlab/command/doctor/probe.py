"""The main function of the doctor's processes: `python -m fsamlab.command.doctor.probe NAME ARGUMENT...`.

Each probe that may hang or crash runs in a process of its own and prints its findings as lines (items.py).
"""

from __future__ import annotations

import importlib
import sys

from fsamlab.command.doctor.items import emit

PROBES = {  # name -> module and function; a process imports no more than its own probe needs
    "files": ("files", "files"),
    "data": ("data", "data"),
    "account": ("account", "account"),
    "devices": ("devices", "devices"),
    "steps": ("steps", "steps"),
    "ranks": ("ranks", "ranks"),
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    module, function = PROBES[name]
    emit(getattr(importlib.import_module(f"fsamlab.command.doctor.{module}"), function)(*arguments))
