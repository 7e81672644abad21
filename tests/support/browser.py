"""What a reader of the report page does and sees, in a browser."""

from __future__ import annotations

import re

from fsamlab.report.page import write_report

CHART = "figure.chart:has(figcaption:text-is('{}'))"


ACCURACY = CHART.format("test accuracy, %")


def description(page, chart):
    plot = page.locator(f"{chart} .plot")
    plot.scroll_into_view_if_needed()
    page.wait_for_function("node => node.uplot || node.querySelector('.empty')", arg=plot.element_handle())
    return plot.get_attribute("aria-label")


def choose(page, label, value):
    page.get_by_label(label, exact=True).first.select_option(value)


def ends(text):
    """Return label -> (mean, std, n) of a chart's description."""
    _, _, lines = text.removesuffix(". Arrow keys read values.").partition(" against ")
    _, _, lines = lines.partition(". ")
    parts = [re.fullmatch(r"(.+) ends at (\S+)(?: ± (\S+))? \(n = (\d+)\)", line) for line in lines.split("; ")]
    return {m[1]: (float(m[2]), float(m[3]) if m[3] else None, int(m[4])) for m in parts}


def line(page, chart, label):
    """Return the x and y of a line's points."""
    at = page.eval_on_selector(f"{chart} .plot", "n => n.uplot.series.map((s) => s.label)").index(label)
    x, y = page.eval_on_selector(f"{chart} .plot", f"n => [n.uplot.data[0], n.uplot.data[{at}]]")
    points = [(a, b) for a, b in zip(x, y) if b is not None]
    return [a for a, _ in points], [b for _, b in points]


def page_of(opened, root, **options):
    write_report([root], root / "report.html")
    return opened(root / "report.html", **options)


def looks(page):
    """Return label -> (colour, dash) of the legend's groups."""
    found = page.locator("#legend .chip").evaluate_all(
        "chips => chips.map((c) => [c.innerText, c.querySelector('line').style.stroke,"
        " c.querySelector('line').getAttribute('stroke-dasharray')])"
    )
    return {label: (colour, dash) for label, colour, dash in found}
