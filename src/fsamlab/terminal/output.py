"""The standard streams: text that one cannot take is simplified, and one that takes no more stops no work.

A locale without UTF-8 has no ±; a disk can be full behind `> file`; a service may start a process without streams.
"""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO, cast

SIMPLER = "fsamlab.simpler"  # an error handler, as Python's "replace" is one
IN_ASCII = {
    **{"±": "+-", "×": "x", "−": "-", "–": "-", "—": "-", "…": "..."},
    **{"→": "->", "≥": ">=", "≤": "<=", "\u00a0": " "},
}
lost: dict[str, OSError] = {}  # name of a stream -> why it takes no more
_work = False  # whether this program's work is elsewhere than in what it prints


def simpler(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for text that an encoding does not have: ASCII as near as there is, `?` at the least.

    Bytes of file names that were no text (PEP 383) come out as they were.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    c = error.object[error.start]
    if 0xDC80 <= ord(c) <= 0xDCFF:
        return bytes([ord(c) - 0xDC00]), error.start + 1
    return IN_ASCII.get(c) or _letters(c) or "?", error.start + 1


def _letters(c: str) -> str:
    """Return a letter without its accents, nothing where it has none in ASCII."""
    return unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()


codecs.register_error(SIMPLER, simpler)


def as_shown(text: str, encoding: str) -> str:
    """Return a text as a stream of this encoding shows it."""
    return text.encode(encoding, SIMPLER).decode(encoding, "surrogateescape")


def prepare(work: bool = False) -> None:
    """Make the standard streams of this process safe to write any text to; the first thing a program does.

    A stream that the process was started without becomes /dev/null: else the next file that is opened has its number,
    and is written into by whatever prints.

    Args:
        work: whether the program's work is elsewhere than in what it prints. The work then goes on when nobody reads a
            stream any longer (`| head`, the end of an ssh session); else a BrokenPipeError ends the program.
    """
    global _work
    _work = work
    lost.clear()
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # has the lowest free number, which is fd
        if getattr(sys, name) is None and fd > 0:
            setattr(sys, name, os.fdopen(fd, "w", encoding="utf-8", closefd=False))
    for stream in outputs():
        with suppress(AttributeError):  # a test's or a notebook's own object
            stream.reconfigure(errors=SIMPLER)  # type: ignore[attr-defined]


def outputs() -> Iterator[TextIO]:
    """Yield the standard streams that this process has and can write to."""
    yield from (stream for stream in (sys.stdout, sys.stderr) if stream is not None and not stream.closed)


def flush() -> None:
    """Write what the streams hold back; one that takes no more is given up.

    Raises:
        BrokenPipeError: nobody reads it any longer, and the program has no other work.
    """
    for stream in outputs():
        try:
            stream.flush()
        except OSError as e:
            _give_up_or_end(stream, e)


def _give_up_or_end(stream: TextIO, error: OSError) -> None:
    if isinstance(error, BrokenPipeError) and not _work:
        raise error
    give_up(stream, error)


def give_up(stream: TextIO, error: OSError) -> None:
    """Send what else is written to a stream nowhere, and say once that it is missing."""
    name = "standard error" if stream is sys.stderr else "standard output"
    if name in lost:
        return
    lost[name] = error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.flush()
    if stream is not sys.stderr and not isinstance(error, BrokenPipeError):  # its reader has what it wanted
        with suppress(OSError):
            print(f"error: {name}: {error.strerror}; what is printed there is lost", file=sys.stderr)


class Forgiving:
    """A standard stream for words beside the work: one that takes no more is given up, and the work goes on.

    Raises:
        BrokenPipeError: by `write` and `flush`, when nobody reads it any longer and the program has no other work.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if the stream can be written to."""
        try:
            return self._stream.write(text)
        except OSError as e:
            _give_up_or_end(self._stream, e)
            return len(text)

    def flush(self) -> None:
        """Flush, if the stream can be written to."""
        try:
            self._stream.flush()
        except OSError as e:
            _give_up_or_end(self._stream, e)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def show(text: str) -> None:
    """Print a text that a command was asked for; where it cannot be printed, `errors.call` ends with an error."""
    print(text, file=cast(TextIO, Forgiving(sys.stdout)), flush=True)
