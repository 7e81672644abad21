"""Methods are told apart by every reader, on both grounds."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from support.runs import VARIANTS

from fsamlab.results.methods import DARK_GROUND, LIGHT_GROUND, METHODS, SPARE_COLOURS, style

# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
VISION = {
    "trichromat": np.eye(3),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
D65 = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x = D65 @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luminance(colour):
    return float(linear(colour) @ D65[1])


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", [LIGHT_GROUND, DARK_GROUND])
def test_every_colour_stands_out_from_the_ground(ground):
    for colour in {s.colour for s in METHODS.values()} | set(SPARE_COLOURS):
        assert contrast(colour, ground) >= 3, colour


@pytest.mark.parametrize("vision", VISION)
def test_what_colour_does_not_separate_the_dash_and_the_marker_do(vision):
    for (a, one), (b, other) in combinations(METHODS.items(), 2):
        distance = np.linalg.norm(lab(VISION[vision] @ linear(one.colour)) - lab(VISION[vision] @ linear(other.colour)))
        assert distance > 15 or (one.dash != other.dash and one.marker != other.marker), (a, b, distance)


def test_every_variant_has_its_own_look():
    assert set(METHODS) <= set(VARIANTS)  # a variant without a row has the look that its name gives
    looks = {method: style(method) for method in VARIANTS}
    assert len({(s.colour, s.dash) for s in looks.values()}) == len(VARIANTS), "two names give one look: add a row"
    assert len({(s.colour, s.dash) for s in METHODS.values()}) == len(METHODS)
    assert len({s.marker for s in METHODS.values()}) == len(METHODS)


def test_a_new_method_keeps_the_look_its_name_gives():
    code = "from fsamlab.results.methods import style; print(style('of_mine'))"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert again.strip() == repr(style("of_mine"))  # of another process too
    assert style("of_mine").label == "of_mine"
    assert style("of_mine") != style("of_yours")
