"""The name under which notebooks import the figures; the code is fsamlab.figures."""

from fsamlab.figures import *  # noqa: F403
from fsamlab.figures import __all__, __doc__  # noqa: F401
