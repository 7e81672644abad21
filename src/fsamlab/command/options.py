"""The words of the `fsamlab` command: its subcommands, their options, and their help."""

from __future__ import annotations

import argparse
from pathlib import Path

from fsamlab import __version__
from fsamlab.config import did_you_mean

WATCH_SECONDS = 5.0
COMPARE_CODES = (
    "exit code: 0; 3 a mean or a run lies outside the band; 4 no run has the setting of a reference; 5 a run with the "
    "setting of a reference has not finished; 6 a run lacks a value. Without a band, 5 and 6 mean that nothing at all "
    "could be compared"
)


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options of a command line; `command` is the name of the command. A wrong word ends the process."""
    words = list(argv)
    if "--watch" in words[:-1] and not _is_number(words[words.index("--watch") + 1]):
        words[words.index("--watch")] = f"--watch={WATCH_SECONDS}"  # the next word is a directory, not the seconds
    args, unknown = parser().parse_known_args(words)
    if unknown:
        # Argparse alone would show the usage of `fsamlab`, without the options of the command.
        one: argparse.ArgumentParser = args.parser
        options = [option for action in one._actions for option in action.option_strings]
        one.error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(unknown[0], options)}")
    return args


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole = argparse.ArgumentParser(prog="fsamlab", description="Work with sweeps and with the runs they have made.")
    whole.add_argument("--version", action="version", version=f"fsamlab {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser(
        "init",
        help="lay a study folder: launch.py, places for your own options and sweeps",
        description="Lay a study folder, in which everything works without the repository of fsamlab. The options of "
        "fsamlab stay in the installed package.",
    )
    one.add_argument("directory", metavar="DIR", help="a new or an empty directory")

    one = commands.add_parser(
        "doctor",
        help="what this machine has (GPU, SLURM, W&B, data, file system), and what of it works",
        description="Look at the machine and try it: a few training steps on the CPU and on each GPU, two ranks, a "
        "checkpoint in runs_dir, locks and links of its file system. SLURM is only asked. Nothing stays behind.",
        epilog="exit code: 0, 1 when something that was tested does not work",
    )
    one.add_argument("words", nargs="*", metavar="key=value", help="as runs_dir=DIR, data.root=DIR")
    one.add_argument("--json", action="store_true", help="a JSON object with every finding")
    one.add_argument("--submit", action="store_true", help="submit a job of one minute, which tries runs_dir on a node")

    one = commands.add_parser(
        "check",
        help="compose and validate every job of a sweep, show what would run, submit nothing",
        description="Show the jobs that `python launch.py -m WORDS` would start.",
    )
    one.add_argument("words", nargs="+", metavar="+sweeps=NAME | key=value")

    one = commands.add_parser(
        "fetch",
        help="download data and pretrained weights, for jobs on nodes without internet",
        description="Download the data sets and the pretrained weights that runs read; train nothing.",
        epilog="The words are those of launch.py: +sweeps=NAME, data=cifar100, data.root=/datasets, "
        "model=timm model.name=NAME model.pretrained=true; of a list (data=cifar10,cifar100) every value is fetched.",
    )
    one.add_argument("words", nargs="*", metavar="+sweeps=NAME | group=option | key=value")

    one = commands.add_parser(
        "status",
        help="which runs of a sweep are finished, running, queued, failed or lost",
        description="Show the state of sweeps from their records, run directories and SLURM; no launcher has to run.",
        epilog="exit code: 0, 1 when a run failed, was cancelled or lost, 2 when there are no runs",
    )
    one.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="sweep or run directories")
    one.add_argument("--failed", action="store_true", help="show only failed, cancelled and lost runs, with the reason")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON list with an object per run")
    form.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help="refresh until nothing is active (5 s)",
    )

    one = commands.add_parser(
        "resubmit",
        help="start failed, lost, cancelled and never started runs of a sweep again",
        description="Use the record of the sweep: same configurations, same directories; runs resume from checkpoints.",
    )
    one.add_argument("sweep", type=Path, help="a sweep's directory, with launches/ in it")
    one.add_argument("overrides", nargs="*", metavar="hydra.launcher.KEY=VALUE", help="other settings of the launcher")

    one = commands.add_parser("collect", help="one tidy CSV with a row per run, and the mean ± std table")
    one.add_argument("runs", nargs="+", type=Path, help="run directories, or directories of runs")
    one.add_argument("--csv", type=Path, help="where to write the CSV (default: results.csv in the first directory)")

    one = commands.add_parser(
        "best",
        help="each method's best setting by validation, as an experiment file ready for more seeds",
        description="Choose a setting for each method by the mean validation metric over the seeds that all of its "
        "settings have, and print it as an option of experiment. Test data choose nothing.",
    )
    one.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="directories of runs")
    one.add_argument(
        "--by",
        nargs="+",
        default=["optimizer"],
        metavar="KEY",
        help="one choice for each value of these keys, as optimizer data.label_noise (default: %(default)s)",
    )
    one.add_argument(
        "--metric",
        metavar="val/NAME",
        help="of the validation data (default: what a tuning study was judged by; else the headline of the task)",
    )
    one.add_argument(
        "--at", choices=("last", "best"), help="which epoch (default: that of a tuning study's objective; else last)"
    )
    one.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=Path("conf/experiment"),
        metavar="DIR",
        help="write a file for each method (DIR: %(const)s); no file is overwritten",
    )
    one.add_argument(
        "--sweep", metavar="NAME", help="also write sweeps/NAME.yaml: all methods at their settings, fresh seeds"
    )
    one.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="fresh seeds for --sweep (default: %(default)s)"
    )
    one.add_argument("--json", action="store_true", help="a JSON object")

    one = commands.add_parser(
        "report",
        help="one self-contained HTML page: results, curves, decomposition, sensitivity",
        description="Write one HTML file that opens without server, network or account.",
    )
    one.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="sweep or run directories")
    one.add_argument("--out", type=Path, help="where to write the page (default: report.html in the first directory)")
    one.add_argument(
        "--claims",
        type=Path,
        metavar="CLAIMS.yaml",
        help="show the verdicts on the claims of this file, as `fsamlab verdict` finds them",
    )
    one.add_argument("--open", action="store_true", help="open the page in the browser")

    one = commands.add_parser(
        "compare",
        help="runs beside published numbers; with a band, a reproduction check",
        description="Show finished runs beside reference numbers of the same setting, and in what other settings "
        "differ. Both the last epoch and the best epoch on test data are shown; nothing is selected.",
        epilog=COMPARE_CODES,
    )
    one.add_argument("runs", nargs="*", type=Path, metavar="DIR", help="sweep or run directories")
    one.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME | FILE.yaml",
        help="only this reference, or those of a file of your own; may be given several times (default: all)",
    )
    one.add_argument(
        "--band",
        type=float,
        metavar="POINTS",
        help="the largest difference to the reference, in percentage points, or in the unit of a metric that is not in "
        "per cent (default: the band of the reference, if its file states one)",
    )
    one.add_argument("--list", action="store_true", help="list the reference numbers with their sources")
    one.add_argument(
        "--json", action="store_true", help="a JSON object with every group, run, reference and difference"
    )

    one = commands.add_parser(
        "verdict",
        help="which of the claims in a file hold: paired differences, intervals, corrected p-values",
        description="Judge each claim of a YAML file on finished runs, seed by seed: holds, does not hold, undecided. "
        "docs/results.md shows the form of the file.",
        epilog="exit code: 0 every claim holds; 3 a claim does not hold; 4 a claim is undecided",
    )
    one.add_argument("claims", type=Path, metavar="CLAIMS.yaml", help="claims, and the runs that they are about")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", dest="form", const="json", help="a JSON object")
    form.add_argument("--markdown", action="store_const", dest="form", const="markdown", help="a table in Markdown")
    one.add_argument("--figure", type=Path, metavar="FILE", help="also draw differences and intervals: .svg or .pdf")
    one.set_defaults(form="table")

    one = commands.add_parser(
        "measure",
        help="sharpness, curvature and the perturbation's decomposition at the checkpoints of runs",
        description="Measure checkpoints of finished or running runs; rows go to RUN/measurements/.",
        epilog="key=value: diagnostics=full|paper|light, diagnostics.rho=0.1, diagnostics.batchnorm=batch, "
        "checkpoint=last|best|ema, device=cpu, force=true, hydra/launcher=slurm, hydra.launcher.num_jobs=1, ...",
    )
    one.add_argument("words", nargs="+", metavar="RUN | key=value", help="run directories, or directories of runs")

    one = commands.add_parser(
        "evaluate",
        help="accuracy and calibration at the checkpoints of runs on another data set, such as CIFAR-10-C",
        description="Evaluate checkpoints of finished or running runs on another data set with the same classes; "
        "rows go to RUN/evaluations/.",
        epilog="key=value: data=cifar10c|cifar100c|imagenet_c|cifar10|image_folder|..., data.root=PATH, "
        "data.corruptions=[fog,snow], checkpoint=last|best|ema, device=cpu, force=true, hydra/launcher=slurm, ...",
    )
    one.add_argument(
        "words", nargs="+", metavar="RUN | data=SET | key=value", help="run directories, or directories of runs"
    )

    one = commands.add_parser(
        "sync",
        help="upload local runs to Weights & Biases, also runs that were trained without it",
        description="Upload rows, summary and exit code of ended runs, as far as W&B does not have them yet. Needs no "
        "checkpoint; a second upload sends nothing.",
        epilog="exit code: 0, 1 when a run is not complete on the server; the same command again continues",
    )
    one.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="run directories, or directories of runs")
    one.add_argument("--project", help="used instead of the runs' tracker.project")
    one.add_argument("--entity", help="used instead of the runs' tracker.entity")
    one.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="limit for the upload of one run (%(default)g s)",
    )
    one.add_argument("--dry-run", action="store_true", help="only print what would be sent")

    one = commands.add_parser(
        "wandb-workspace",
        help="the dashboard of a W&B project: accuracy, loss, sharpness, curvature, perturbation, noise, cost",
        description="Save a view to a W&B project with a panel for each logged quantity, a mean line and a band for "
        "each method.",
    )
    one.add_argument("project", help="the runs' tracker.project")
    one.add_argument("--entity", help="team or user (default: the owner of the API key)")
    one.add_argument("--name", default="fsamlab", help="name of the view (%(default)s)")
    one.add_argument("--json", action="store_true", help="print the view as JSON; needs neither server nor API key")

    for command in commands.choices.values():
        command.set_defaults(parser=command)
    return whole
