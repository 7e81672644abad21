"""The files of one run, written and read."""
