"""The programs: launch.py's entry and the commands of `fsamlab`."""
