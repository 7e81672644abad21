"""The standard streams: any text can be written, and a broken stream stops no work.

A locale without UTF-8 has no ±. A disk can be full behind `> file`. A service may start a process without streams.
"""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO, cast

SIMPLER = "fsamlab.simpler"  # the name of an error handler, as "replace" is one of Python
IN_ASCII = {
    **{"±": "+-", "×": "x", "−": "-", "–": "-", "—": "-", "…": "..."},
    **{"→": "->", "≥": ">=", "≤": "<=", "\u00a0": " "},
}
lost: dict[str, OSError] = {}  # name of a stream -> the error for which it was given up
_work = False  # whether this program has other work than printing


def simpler(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the replacement of a character that an encoding does not have: the nearest ASCII text, or `?`.

    This is an error handler for `codecs`. Bytes of file names that are not text (PEP 383) are written back unchanged.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    c = error.object[error.start]
    if 0xDC80 <= ord(c) <= 0xDCFF:
        return bytes([ord(c) - 0xDC00]), error.start + 1
    return IN_ASCII.get(c) or _letters(c) or "?", error.start + 1


def _letters(c: str) -> str:
    """Return a letter without its accents; empty where ASCII has no such letter."""
    return unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()


codecs.register_error(SIMPLER, simpler)


def as_shown(text: str, encoding: str) -> str:
    """Return a text as a stream of this encoding shows it."""
    return text.encode(encoding, SIMPLER).decode(encoding, "surrogateescape")


def prepare(work: bool = False) -> None:
    """Make the standard streams of this process safe for any text. A program calls this function first.

    A stream that the process was started without becomes /dev/null. Otherwise the next opened file would get the
    stream's number, and every print would write into that file.

    Args:
        work: whether the program has other work than printing. The work then continues when nobody reads a stream any
            more (`| head`, the end of an ssh session); without work a BrokenPipeError ends the program.
    """
    global _work
    _work = work
    lost.clear()
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open() takes the lowest free number, which is fd
        if getattr(sys, name) is None and fd > 0:
            setattr(sys, name, os.fdopen(fd, "w", encoding="utf-8", closefd=False))
    for stream in outputs():
        with suppress(AttributeError):  # an object of a test or a notebook in place of the stream
            stream.reconfigure(errors=SIMPLER)  # type: ignore[attr-defined]


def outputs() -> Iterator[TextIO]:
    """Yield the standard streams that this process has and can write to."""
    yield from (stream for stream in (sys.stdout, sys.stderr) if stream is not None and not stream.closed)


def flush() -> None:
    """Write what the streams have buffered; give up a stream that cannot be written.

    Raises:
        BrokenPipeError: nobody reads the stream any more, and the program has no other work.
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
    """Redirect a stream to nowhere, and print once that its output is lost."""
    name = "standard error" if stream is sys.stderr else "standard output"
    if name in lost:
        return
    lost[name] = error
    # dup2 and not a new sys.stdout: loggers and libraries keep references to the old stream object.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.flush()
    # The reader of a closed pipe has read enough.
    if stream is not sys.stderr and not isinstance(error, BrokenPipeError):
        with suppress(OSError):
            print(f"error: {name}: {error.strerror}; the output there is lost", file=sys.stderr)


class Forgiving:
    """A standard stream beside the work: if the stream cannot be written, it is given up and the work continues.

    Raises:
        BrokenPipeError: from `write` and `flush`, when nobody reads the stream and the program has no other work.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; where the stream cannot be written, give the stream up."""
        try:
            return self._stream.write(text)
        except OSError as e:
            _give_up_or_end(self._stream, e)
            return len(text)

    def flush(self) -> None:
        """Flush; where the stream cannot be written, give the stream up."""
        try:
            self._stream.flush()
        except OSError as e:
            _give_up_or_end(self._stream, e)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def show(text: str) -> None:
    """Print the text that a command was asked for; a failure to print becomes the exit code of `errors.call`."""
    print(text, file=cast(TextIO, Forgiving(sys.stdout)), flush=True)
