"""`fsamlab init DIR`: lay a study folder, in which everything works without the repository of fsamlab.

The folder holds what belongs to its user: options, sweeps, classes, runs. The options of fsamlab are not copied: they
stay in the installed package, so that a new version of fsamlab meets no stale copies.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

from fsamlab import __version__
from fsamlab.config import ConfigError
from fsamlab.config.project import CONF, HOME, LAYOUT, STUDY

README = """\
# {name}

A study with [fsamlab](https://arxiv.org/abs/2403.12350) (made by fsamlab {version}).

```bash
python launch.py -m +sweeps=quickstart        # F-SAM, SAM, SGD and controls on digits; a table
python launch.py -m +sweeps=example           # the sweep in sweeps/example.yaml: write your own beside it
python launch.py --help                       # all options, those of fsamlab and those of this folder
fsamlab report runs/quickstart --open         # one HTML page; also: collect, status, measure, check, resubmit
```

| place | what is there |
| --- | --- |
| `conf/GROUP/NAME.yaml` | your own options, as `conf/optimizer/my_sam.yaml` for `optimizer=my_sam` |
| `conf/local/` | paths and accounts of this machine, not in git |
| `sweeps/NAME.yaml` | your own sweeps, for `+sweeps=NAME`; the first line is `# @package _global_` |
| `*.py` beside `launch.py` | your own classes and functions, as `my_sam.py` for `optimizer.descent=my_sam:Mean` |
| `runs/` | results, not in git |

An option or sweep of yours needs a name that fsamlab does not use. Put the folder under git: each launch records the
commit, the uncommitted changes and the version of fsamlab.
"""
EXAMPLE = """\
# @package _global_
# An example of a sweep of your own: the radius of SAM and F-SAM. 2 methods x 2 radii, 2 epochs: seconds.
defaults:
  - override /data: digits

name: example
train:
  epochs: 2
hydra:
  sweeper:
    params:
      optimizer: sam,fsam
      optimizer.rho: 0.05,0.2
"""
GITIGNORE = """\
/runs/
/conf/local/*
!/conf/local/README.md
/data/
__pycache__/
*.tmp
"""


def init(name: str | Path) -> str:
    """Make a study folder; return what to do next.

    Args:
        name: of a directory that does not exist, is empty, or holds only the .git of a new repository.

    Raises:
        ConfigError: there is no name, the directory holds something else, or this copy of fsamlab came without its
            options.
    """
    if not str(name):  # Path("") is the working directory, which an empty variable of a shell does not mean
        raise ConfigError("DIR", name, "must name a new directory, or . for this directory")
    directory = Path(name)
    if not CONF.is_dir():
        raise ConfigError("fsamlab", HOME, "has no conf/; install fsamlab from a wheel or with `pip install -e`")
    if directory.exists() and not directory.is_dir():
        raise ConfigError("DIR", directory, "is a file; name a new directory")
    if directory.exists() and any(path.name != ".git" for path in directory.iterdir()):
        raise ConfigError("DIR", directory, f"is not empty; name a new directory, for example {directory / 'study'}")
    for folder in ("conf/local", "sweeps"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    texts = {
        "README.md": README.format(name=directory.resolve().name, version=__version__),
        ".gitignore": GITIGNORE,
        "sweeps/example.yaml": EXAMPLE,
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    shutil.copyfile(HOME / "launch.py", directory / "launch.py")
    shutil.copyfile(CONF / "local" / "README.md", directory / "conf" / "local" / "README.md")
    os.symlink("../sweeps", directory / "conf" / "sweeps")  # Hydra looks below conf/ alone
    # Last: a directory without this file is no study folder.
    marker = {"layout": LAYOUT, "made_by": f"fsamlab {__version__}"}
    (directory / STUDY).write_text(json.dumps(marker) + "\n", encoding="utf-8")
    go = "" if directory.resolve() == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    return f"{directory} is ready: {go}python launch.py -m +sweeps=quickstart"
