"""The axes of the sharpness-aware family: the choices on each axis, with their parameters and their arithmetic.

A choice is one class: a subclass of :class:`Ascent`, :class:`Component`, :class:`Reference`, :class:`Metric`,
:class:`Descent`, :class:`When` or :class:`Radius`. Importing the package imports no torch, so that schemas
read the parameters here.
"""

from fsamlab.axes.ascent import Ascent
from fsamlab.axes.axis import Choice, Part, Pass, Step
from fsamlab.axes.choices import Choices
from fsamlab.axes.component import Component
from fsamlab.axes.descent import Descent
from fsamlab.axes.metric import Metric
from fsamlab.axes.radius import Radius
from fsamlab.axes.reference import Reference
from fsamlab.axes.when import When
from fsamlab.checks import ConfigError, number, word

__all__ = [
    "Ascent",
    "Choice",
    "Choices",
    "Component",
    "ConfigError",
    "Descent",
    "Metric",
    "Part",
    "Pass",
    "Radius",
    "Reference",
    "Step",
    "When",
    "number",
    "word",
]
