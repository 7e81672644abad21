"""The page on paper: every chart is drawn, no column is cut off, and the screen is as before afterwards."""

import pytest
from support.made_runs import make_sweep

from fsamlab.report.page import write_report

A4 = 794 - 2 * 45  # CSS pixels between the margins


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = make_sweep(tmp_path_factory.mktemp("runs") / "made")
    write_report([root], root / "report.html")
    return root / "report.html"


DRAWN = """() => [...document.querySelectorAll(".chart")].filter((n) => n.clientWidth).map((n) => {
  const canvas = n.querySelector(".plot:not([hidden]) canvas");
  if (!canvas) return n.querySelectorAll(".bars, .empty").length > 0;
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.some((value) => value > 0);
})"""
CUT_OFF = """() => [...document.querySelectorAll(".scroll > table")].filter((n) => n.clientWidth)
  .map((n) => n.getBoundingClientRect().right - n.parentElement.getBoundingClientRect().right)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_all_charts_are_drawn_in_light_colours_and_no_column_is_lost(made, opened, scheme):
    page = opened(made, scheme=scheme)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.evaluate("document.querySelectorAll('thead th').forEach((n) => n.append(' a long heading'.repeat(3)))")
    page.evaluate("document.getElementById('runs').open = true")
    page.wait_for_selector("#runs table")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme=scheme)
    page.set_viewport_size({"width": A4, "height": 1000})
    drawn = page.evaluate(DRAWN)
    assert len(drawn) > 5
    assert all(drawn)
    over = page.evaluate(CUT_OFF)
    assert len(over) >= 2
    assert max(over) < 1
    assert page.evaluate("document.documentElement.scrollWidth") <= A4
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#theme").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == before
    assert page.evaluate("[...document.querySelectorAll('table')].every((n) => !n.style.zoom)")
    assert page.locator("#theme").is_visible()


def test_the_browser_says_when_it_prints(made, opened):
    page = opened(made)
    page.evaluate("addEventListener('beforeprint', () => { window.drawn = (" + DRAWN + ")(); })")
    assert page.pdf(format="A4").startswith(b"%PDF")
    drawn = page.evaluate("window.drawn")
    assert len(drawn) > 5
    assert all(drawn)
