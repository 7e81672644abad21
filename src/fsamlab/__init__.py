"""fsamlab: the experiment framework for sharpness-aware training."""

__version__ = "0.1.0"
