"""The one build step that pyproject.toml cannot state: conf/, sweeps/ and launch.py travel inside the package.

The three stay at the top level of the checkout and exist once in git. A wheel gets copies of them in `fsamlab/shipped`,
where `fsamlab init` and the composition of a study folder find them. An editable install gets no copies: it reads the
files of the checkout. All other settings of the package stand in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


def shipped() -> dict[str, str]:
    """Return source file -> place below the package, for all files that travel.

    Files of conf/local/ other than its README stay at home: they hold accounts and paths of the person who builds.
    """
    conf = Path("conf")
    options = [p for p in conf.rglob("*.yaml") if p.parts[1] not in ("local", "sweeps")]  # conf/sweeps is a link
    places = {path: path for path in [*options, conf / "local" / "README.md", Path("launch.py")]}
    places |= {path: conf / path for path in Path("sweeps").rglob("*.yaml")}
    return {str(path): str(Path("fsamlab", "shipped", place)) for path, place in sorted(places.items())}


class BuildWithOptions(build_py):
    """build_py that also copies the shipped files."""

    def run(self) -> None:
        """Copy the modules, then the shipped files."""
        super().run()
        if self.editable_mode:
            return
        # What an earlier build has left here may no longer exist in the checkout.
        shutil.rmtree(Path(self.build_lib, "fsamlab", "shipped"), ignore_errors=True)
        for source, place in shipped().items():
            target = Path(self.build_lib, place)
            self.mkpath(str(target.parent))
            self.copy_file(source, str(target), preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that an installation has."""
        made = [] if self.editable_mode else [str(Path(self.build_lib, place)) for place in shipped().values()]
        return [*super().get_outputs(include_bytecode), *made]

    def get_source_files(self) -> list[str]:
        """Return the files that the step reads: an sdist holds them all."""
        return [*super().get_source_files(), *shipped()]


setup(cmdclass={"build_py": BuildWithOptions})
