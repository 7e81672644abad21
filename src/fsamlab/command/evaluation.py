"""The evaluation of a run's checkpoint on another data set: the values of one row."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from fsamlab.command.robustness import entries
from fsamlab.config.project import PROJECT_ROOT

if TYPE_CHECKING:
    from fsamlab.command.measurement import Opened
    from fsamlab.data.evaluation import Opener

log = logging.getLogger(__name__)


def evaluated(opened: Opened) -> dict[str, Any]:
    """Return the loss and the metrics of a checkpoint on the data set of the configuration.

    Returns:
        `data`, the name of the set; `DATA/...` as :func:`~fsamlab.command.robustness.entries` has them; the number of
        samples of one severity; the name of the checkpoint; and `by_severity`, corruption -> metrics at each severity.

    Raises:
        ConfigError: the data set does not fit the network.
        Damaged: a file of the data set cannot be read.
    """
    from fsamlab.data.evaluation import Trained, evaluation_parts

    trainer, cfg = opened.trainer, opened.config.data
    trained = Trained(trainer.data, opened.trained.data, opened.trained.seed)
    parts = evaluation_parts(cfg, trained, opened.device, PROJECT_ROOT)
    finished = opened.memo({"data": opened.config.settings()})
    by_severity = {}
    for corruption, open_parts in parts.items():
        log.info("%s: evaluating %s", opened.run.name, " ".join((cfg.name, corruption)))
        stored = finished(corruption, partial(_flat, trainer, open_parts))
        by_severity[corruption] = _by_severity(stored)
    num_samples = {values.pop("num_samples") for found in by_severity.values() for values in found}
    return {
        "data": cfg.name,
        **entries(cfg.name, by_severity),
        f"{cfg.name}/num_samples": int(max(num_samples)),
        f"{cfg.name}/checkpoint": opened.config.checkpoint,
        "by_severity": by_severity,
    }


def _flat(trainer: Any, open_parts: Opener) -> dict[str, float]:
    """Return the metrics of all parts in the form of the store of finished values: `0/acc1`, `0/loss`, `1/acc1`, ..."""
    found = {}
    for number, part in enumerate(open_parts()):
        values = {**trainer.evaluate(part.source), "num_samples": part.source.num_samples}
        found.update({f"{number}/{key}": value for key, value in values.items()})
    return found


def _by_severity(flat: dict[str, float]) -> list[dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for key, value in flat.items():
        number, _, name = key.partition("/")
        found.setdefault(number, {})[name] = value
    return list(found.values())
