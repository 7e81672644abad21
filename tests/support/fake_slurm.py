"""squeue and sacct as small scripts, on a PATH that holds nothing else."""

import pytest

INVALID = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
DOWN = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
DISABLED = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


@pytest.fixture(name="fake")
def fake_tools(tmp_path, monkeypatch):
    """Put shell scripts on a PATH that has nothing else; returns the calls that were made."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(**bodies):
        for name, body in bodies.items():
            (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
            (folder / name).chmod(0o755)
        return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []

    return install


def lines(*rows):
    return "\n".join(f"echo '{row}'" for row in rows)
