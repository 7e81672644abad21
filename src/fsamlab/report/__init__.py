"""The HTML report. `fsamlab.report.figures` is the public name of the figures for papers."""
