"""The programs: the entry of launch.py and the commands of `fsamlab`."""
