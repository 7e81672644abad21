"""Processes that are bounded in time: a tool, a file server or a driver that hangs must not hang the doctor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fsamlab.command.doctor.items import FAILED, Item, parse

TOOL_SECONDS = 10.0  # for a tool such as sinfo
GRACE_SECONDS = 1.0  # for a killed process to end; a process that waits for a dead file server does not end at once
EXCERPT = 300  # characters of an error message


@dataclass(frozen=True)
class Answer:
    """What a process has printed.

    Attributes:
        out: standard output; also of a process that was stopped.
        problem: one line that says why the process failed; None for exit code 0.
    """

    out: str
    problem: str | None = None


class Processes:
    """Starts processes and waits for each no longer than a bound; the end of the block kills those that still run.

    The methods may be called from several threads.
    """

    def __init__(self) -> None:
        self._alive: set[subprocess.Popen[str]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closed = True
            left = list(self._alive)
        for process in left:
            _kill(process)

    def ask(
        self, command: Sequence[str], seconds: float = TOOL_SECONDS, env: Mapping[str, str] | None = None
    ) -> Answer:
        """Run a command for at most `seconds`; an error becomes the `problem` of the answer.

        Args:
            command: the program and its arguments.
            seconds: after this time the process and all its children are killed.
            env: variables beside those of this process.
        """
        name = os.path.basename(command[0])
        try:
            # A session of its own: its children are killed with it. Pipes and no files: /tmp may be full.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except OSError as e:
            return Answer("", f"{name}: {e.strerror}")
        with self._lock:
            self._alive.add(process)
            if self._closed:  # by Ctrl-C, between two processes of one thread
                _kill(process)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return Answer(_stopped(process), f"{name} gave no answer within {seconds:g} s")
        finally:
            with self._lock:
                self._alive.discard(process)
        if process.returncode == 0:
            return Answer(out)
        return Answer(out, _last_line(err + out) or f"{name} ended with exit code {process.returncode}")

    def probe(self, name: str, *arguments: str, seconds: float, topic: str, advice: str) -> list[Item]:
        """Run a probe of probe.py in a process of its own; return its items, and one more if the process failed.

        Args:
            name: of the probe.
            arguments: of the probe.
            seconds: the bound.
            topic: of the item that says that the process failed.
            advice: for this item.
        """
        answer = self.ask([sys.executable, "-m", "fsamlab.command.doctor.probe", name, *arguments], seconds)
        items = parse(answer.out)
        if answer.problem is not None:
            items.append(Item(topic, answer.problem.replace(os.path.basename(sys.executable), name), FAILED, advice))
        return items


def _stopped(process: subprocess.Popen[str]) -> str:
    """Kill a process and its children; return what they have printed."""
    _kill(process)
    try:
        return process.communicate(timeout=GRACE_SECONDS)[0]
    except subprocess.TimeoutExpired as e:
        printed = e.stdout or b""
        return printed.decode("utf-8", "replace") if isinstance(printed, bytes) else printed


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("fsamlab-item ")]
    return lines[-1][:EXCERPT] if lines else ""
