"""The key `optimizer.perturb`: which parameters are perturbed, and how far.

A word chooses parameters that are perturbed with `optimizer.rho`, the others are not perturbed:

    all       every parameter
    norm      the parameters of normalisation modules (SAM-ON, arXiv 2306.04226)
    no_norm   every parameter but those
    weights   the parameters with "weight" in their name

A list of patterns gives a rho of its own to the parameters whose name matches; the first pattern that matches counts,
and a parameter that no pattern matches has `optimizer.rho`:

    perturb:
      - {name: "stage1.*", rho: 0.1}
      - {name: "*bn*", rho: 0}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsamlab.axes import rules
from fsamlab.checks import ConfigError, check_fields, one_of, text, unknown_key, within

WORDS = ("all", "norm", "weights", "no_norm")


@dataclass
class Pattern:
    """Parameters by name, as the shell matches file names: `*` is any text, `?` any character; and their radius."""

    name: str = text("", 400)
    rho: float = within(0.0, rules.RHO)


def patterns(perturb: list[Any]) -> list[Pattern]:
    """Return the patterns of a list.

    Raises:
        ConfigError: an entry that is no pattern with its radius.
    """
    found = []
    for i, entry in enumerate(perturb):
        key = f"perturb[{i}]"
        if not isinstance(entry, dict) or not {"name", "rho"} <= entry.keys():
            raise ConfigError(key, entry, 'must be {name: PATTERN, rho: RADIUS}, for example {name: "*bn*", rho: 0.1}')
        stray = [name for name in entry if name not in ("name", "rho")]
        if stray:
            raise ConfigError(key, entry, unknown_key(str(stray[0]), str(stray[0]), ["name", "rho"], "an entry"))
        pattern = Pattern(**entry)
        check_fields(f"{key}.", pattern)
        found.append(pattern)
    return found


def check_freeze(freeze: Any) -> None:
    """Refuse what is neither null nor a list of name patterns."""
    texts = isinstance(freeze, list) and all(isinstance(pattern, str) and pattern for pattern in freeze)
    if freeze is not None and not (texts and freeze):
        raise ConfigError("freeze", freeze, 'must be null or a list of name patterns, for example ["stem.*"]')


def check_perturb(perturb: Any) -> None:
    """Refuse what is neither one of the words nor a list of patterns."""
    if isinstance(perturb, list) and perturb:
        patterns(perturb)
    elif isinstance(perturb, str):
        one_of("perturb", perturb, WORDS)
    else:
        allowed = f"must be one of {', '.join(WORDS)}, or a list of {{name: PATTERN, rho: RADIUS}}"
        raise ConfigError("perturb", perturb, allowed)
