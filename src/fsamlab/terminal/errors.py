"""Errors become one line and an exit code.

Hydra's own messages have several lines and a traceback. A user who mistyped a key needs to read the key, the value and
what is allowed.
"""

from __future__ import annotations

import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TextIO, get_type_hints

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fsamlab.config import SCHEMAS, Config, ConfigError, MeasureConfig, did_you_mean, shown, unknown_key
from fsamlab.terminal import output


class JobFailed(RuntimeError):
    """A run ended with an unforeseen exception; the traceback is in run.log."""


class SweepFailed(RuntimeError):
    """Some jobs of a sweep did not finish; the table above the message lists them."""


SWEEPS = ("hydra.sweeper.params", "hydra.sweeper.grids", "hydra.sweeper.along")  # mappings with keys of the user's
CLOSED_PIPE = 128 + 13  # the exit code that a shell gives to a program that SIGPIPE has ended


def call(main: Callable[[], Any], *, work: bool = False) -> int:
    """Call a program's main function and return the exit code.

    The code is that of `main`, 1 for an error, 130 after Ctrl-C. A closed pipe (`... | head`) is no error: the reader
    has read enough. A stream that cannot be written (a full disk behind `> file`) is an error. Neither ends a program
    whose `work` is not its output.

    Args:
        main: returns the exit code, or None for 0.
        work: whether the program has other work than printing, such as a training; see :func:`output.prepare`.
    """
    output.prepare(work)
    leaving: SystemExit | None = None
    try:
        try:
            code = int(main() or 0)
        except KeyboardInterrupt:
            code = 130
        except SystemExit as e:
            code, leaving = 0 if e.code in (None, 0) else 1, e
        except Exception as e:
            if isinstance(e, BrokenPipeError) and any(map(has_no_reader, output.outputs())):
                raise
            code = report(e)
        finally:
            output.flush()  # here and not at the exit of Python, which prints an error of its own
    except BrokenPipeError:
        # Python flushes the streams once more at its exit. Into the closed pipe that would fail and print a message.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in filter(has_no_reader, output.outputs()):
            os.dup2(nowhere, stream.fileno())
        return CLOSED_PIPE
    if code == 0 and output.lost and not work:
        return 1
    if leaving is not None:
        raise leaving
    return code


def has_no_reader(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose reading end is closed."""
    try:
        poll = select.poll()
        poll.register(stream, 0)
        return bool(poll.poll(0))
    except OSError:  # an object without a file descriptor
        return False


def report(error: BaseException) -> int:
    """Print an error to stderr and return the exit code; only an unforeseen error has a traceback."""
    signum = getattr(error, "signum", None)
    line = one_line(error)
    stream: Any = output.Forgiving(sys.stderr)
    if line is None:
        traceback.print_exception(error, file=stream)
        line = f"{type(error).__name__}: {error}"
    print(f"{'stopped' if signum else 'error'}: {line}", file=stream)
    return 1 if signum is None else 128 + signum


def one_line(error: BaseException) -> str | None:
    """Return the message, in one line, of an error that a user can act on; None for any other error."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return tidy(from_hydra(error))
    if isinstance(error, YAMLError):
        return tidy(from_yaml(error))
    known = (
        "ConfigError",
        "StrayKey",
        "Diverged",
        "Preempted",
        "DirectoryBusy",
        "Superseded",
        "SweepFailed",
        "JobFailed",
        "CannotResume",
        "NoProgress",
        "NoRendezvous",
        "CannotUpload",
        "Damaged",
        "RankLost",
        "AtRankZero",
    )
    if type(error).__name__ in known:  # by name: some of these live in modules that import torch
        return tidy(str(error))
    if isinstance(error, MemoryError) or re.search(r"out of memory|allocate memory|not enough memory", str(error)):
        advice = "a smaller model.width, data.batch_size or data.eval_batch_size, or more memory"
        return tidy(f"out of memory: {(str(error).splitlines() or ['no memory left'])[0][:200]}; {advice}")
    if isinstance(error, ValueError) and str(error).startswith("Unsupported item value in defaults : bool"):
        # From Hydra, which does not name the file.
        return (
            "a defaults list has true or false where an option's name is needed; YAML reads off, on, yes and no as "
            'these: write the name with quotes, for example `- override /diagnostics: "off"`'
        )
    # From mkdir: the name is that of the file in the way.
    if isinstance(error, FileExistsError) and error.filename is not None:
        return f"{error.filename}: a directory is needed here, but a file or a broken link is in the way; move it away"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def from_yaml(error: YAMLError) -> str:
    """Return file, line and mistake of a file that is not YAML; an option or a sweep, which Hydra reads."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a file with bytes that are no text
        return f"{getattr(error, 'name', 'a file')}: is not YAML: {getattr(error, 'reason', error)}"
    context = f" {error.context}" if getattr(error, "context", None) else ""
    return f"{mark.name}, line {mark.line + 1}: is not YAML: {error.problem}{context}"


def tidy(text: str) -> str:
    """Return a text as one line of printable characters; a word of 400 characters or more is shortened."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return re.sub(r"\S{400,}", lambda word: f"{word[0][:100]}...{word[0][-50:]}", line)


def from_hydra(error: BaseException) -> str:
    """Reduce an exception of Hydra or OmegaConf to key, value and what is allowed."""
    if isinstance(error.__cause__, ConfigError):
        return str(error.__cause__)
    text = str(error)
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or [])
        return f"{group}={name}: no such option{did_you_mean(name, options)}; {group} has {', '.join(options)}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    detail = str(error.__cause__ or "")
    sweep = re.match(r"In '(sweeps/[^']+)'", text)
    if (sweep and unknown and "@" in unknown[1]) or (not unknown and re.search(r"full_key: sweeps$", text, re.M)):
        file = f"{sweep[1]}.yaml" if sweep else "sweeps/"
        return f"{file}: the first line of a sweep is `# @package _global_`, which makes its keys those of a run"
    if unknown and "not in 'MeasureConfig'" in detail:
        known = ", ".join(f.name for f in fields(MeasureConfig) if f.name not in ("root", "run"))
        return f"{shown(unknown[1])}: is no key of a measurement, which has {known}"
    if unknown and re.search(r"not in|No match in the defaults list", text + detail):
        return unknown_anywhere(unknown[1])
    if unknown or "full_key" in text + detail:
        found = re.search(r"full_key: (\S+)", detail or text)
        value = re.search(r"Value '(.*?)' (?:of type|is not|could)", detail or text)
        key = found[1] if found else (unknown[1] if unknown else "?")
        reason, *more = [line for line in (detail or text).splitlines() if line.strip()]
        inside = re.match(r"In '(.+)': \w+ raised while composing config:", reason)
        if inside and more:
            reason = f"{more[0]} (in conf/{inside[1]}.yaml)"
            if "not in" in more[0]:
                owner = re.search(r"not in '(\w+)'", more[0])
                return unknown_anywhere(key, f" in conf/{inside[1]}.yaml", owner[1] if owner else "")
        if "'{}'" in reason:  # of KEY={}, and of KEY.NAME=VALUE
            return f"{key}: is one value, without keys of its own; write {key}=VALUE"
        if "Missing mandatory value" in reason:
            return f"{key}: must be given: {key}={'OPTION' if key in SCHEMAS else 'VALUE'} on the command line"
        return f"{key}={shown(value[1])}: {reason}" if value else in_plain_words(key, reason)
    parts = [*text.splitlines(), *detail.splitlines()]
    return "; ".join(dict.fromkeys(p.strip() for p in parts if p.strip()))


def unknown_anywhere(key: str, file: str = "", owner: str = "") -> str:
    """Return the message for a key that no schema has, with the most similar existing key.

    Args:
        key: dotted.
        file: ` in <file>`, where the key stands in a file; the message then lists all keys.
        owner: the class name of the file's schema, where it is known.
    """
    where, _, name = key.rpartition(".")
    if where == "hydra.launcher":
        has = "hydra/launcher=local has num_jobs and threads_per_job; the settings of SLURM need hydra/launcher=slurm"
        return f"{shown(key)}: the chosen launcher has no such setting; {has}"
    if key.startswith(SWEEPS):
        return f"{shown(key)}: is not there yet; a new key has a + in front: '+{key}=VALUE'"
    if not where or where.split(".")[0] not in (f.name for f in fields(Config)):
        known = [*(f.name for f in fields(Config)), "experiment", "+sweeps"]
        return unknown_key(key, key, known, "the config")
    schemas = schemas_of(where)
    if not schemas and not file:
        return _below_a_value(key, where, name)
    schemas = [schema for schema in schemas if schema.__name__ == owner] or schemas
    known = sorted({f.name for schema in schemas for f in fields(schema)})
    if file:
        return f"{shown(key)}: unknown key{file}{did_you_mean(name, known)}; {where} has {', '.join(known)}"
    if name in known:  # a key of another schema of the group
        group = key.split(".")[0]
        owners = [
            option for option, schema in SCHEMAS.get(group, {}).items() if name in {f.name for f in fields(schema)}
        ]
        return f"{shown(key)}: the chosen option of {group} has no such key, but options of schema {', '.join(owners)}"
    return unknown_key(key, name, known, where)


def _below_a_value(key: str, where: str, name: str) -> str:
    """Return the message for the key `where`.`name`, where `where` is no section of the config."""
    section, _, last = where.rpartition(".")
    hints = [get_type_hints(schema) for schema in (schemas_of(section) if section else [Config])]
    if not any(last in hint for hint in hints):  # the mistake is in front of the last dot
        return unknown_anywhere(where)
    # A mapping of free form, which Hydra does not let an override extend. A key of the section does not go there.
    beside = sorted({field for hint in hints for field in hint} - {last})
    if name in beside:
        return f"{shown(key)}: unknown key; set {section}.{name}"
    near = did_you_mean(name, beside, cutoff=0.75).replace("mean ", f"mean {section}.")
    return f"{shown(key)}: unknown key{near}; {where} is one value: write {where}={{{name}: VALUE, ...}}"


def schemas_of(section: str) -> list[Any]:
    """Return the schemas that a section of the config may have, such as those of `data.augment`; empty for a value."""
    group, *path = section.split(".")
    schemas: list[Any] = list(SCHEMAS.get(group, {}).values()) or [get_type_hints(Config).get(group)]
    for name in path:
        schemas = [get_type_hints(schema).get(name) for schema in schemas if is_dataclass(schema)]
    return [schema for schema in schemas if is_dataclass(schema)]


def in_plain_words(key: str, reason: str) -> str:
    """Return the message for a value of another form than its key has, in place of the message of OmegaConf."""
    if "is not a subclass of" in reason:
        known = ", ".join(sorted({f.name for schema in schemas_of(key) for f in fields(schema)}))
        return f"{key}: is a section with keys of its own, not one value; write {key}.KEY=VALUE, KEY one of {known}"
    if "is not a ListConfig" in reason:
        return f"{key}: must be a list, for example '{key}=[VALUE, ...]'"
    if re.search(r"Cannot (assign|merge) .*Dict", reason):
        return f"{key}: must be a mapping of names to values, for example '{key}={{NAME: VALUE}}'"
    return f"{key}: {reason}"
