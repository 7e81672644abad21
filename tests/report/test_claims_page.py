"""The verdicts on a file of claims, on the page."""

import pytest
import yaml
from support.browser import ACCURACY, choose, description, line
from support.made_runs import make_run

from fsamlab.command.main import main
from fsamlab.report.page import write_report
from fsamlab.report.page_claims import judged
from fsamlab.results.claims import read_claims
from fsamlab.results.verdict_texts import as_json
from fsamlab.results.verdicts import verdicts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("claims")
    for seed in range(4):
        for name, passes in (("sgd", 10), ("sgd_2x", 20), ("fsam", 20)):
            cost = {"cost/passes": passes, "cost/steps": 50, "cost/epochs": 5.0}
            make_run(root / "runs" / f"{name}{seed}", name, seed, summary=cost)
    content = {
        "runs": ["runs"],
        "margin": 0.5,
        "groups": {"sgd": {"optimizer.name": "sgd_2x"}, "fsam": {"optimizer.name": "fsam"}},
        "claims": [{"claim": "fsam > sgd", "says": "F-SAM <b>generalises</b> better", "equal_compute": True}],
    }
    (root / "claims.yaml").write_text(yaml.safe_dump(content))
    return root


def test_the_section_has_the_numbers_of_the_command(made):
    found = judged(made / "claims.yaml")
    (one,) = [as_json(verdict) for verdict in verdicts(read_claims(made / "claims.yaml"))]
    (row,) = found.table.rows
    values = dict(zip((heading for heading, _, _ in found.table.headings), row))
    assert (values["n"].value, values["mean difference"].value, values["verdict"].text) == (4, one["mean"], "holds")
    assert (values["p holds"].value, values["margin"].value, values["> 0"].text) == (one["p_holds"], 0.5, "4 of 4")
    assert values["95\u00a0% interval"].value == one["low"]
    assert len(found.lines) == 1


def test_the_page_shows_the_claims_and_escapes_them(made, capsys):
    assert main(["report", str(made / "runs"), "--claims", str(made / "claims.yaml")]) == 0
    page = (made / "runs" / "report.html").read_text(encoding="utf-8")
    assert ">Claims</h3>" in page
    assert "F-SAM &lt;b&gt;generalises" in page
    write_report([made / "runs"], made / "plain.html")
    assert ">Claims</h3>" not in (made / "plain.html").read_text(encoding="utf-8")


def test_claims_that_cannot_be_read_are_one_line_and_nothing_is_written(made, capsys):
    out = made / "none.html"
    assert main(["report", str(made / "runs"), "--claims", str(made / "absent.yaml"), "--out", str(out)]) == 1
    assert "CLAIMS.yaml" in capsys.readouterr().err
    assert not out.exists()


def test_the_reader_chooses_what_the_differences_are_to(opened, made):
    write_report([made / "runs"], made / "choice.html")
    page = opened(made / "choice.html")
    cell = page.locator("#results tr:has(th:text-is('F-SAM')) td[data-options]")
    first = cell.inner_text()
    assert first.endswith("4/4")
    chosen = page.get_by_label("compare with")
    assert chosen.evaluate("node => node.value") == "0"
    assert chosen.locator("option").all_inner_texts()[:2] == ["SGD at equal compute", "SGD"]
    chosen.select_option(label="SGD")
    assert cell.inner_text() != first
    assert cell.inner_text().endswith("4/4*")
    assert "not at equal compute" in page.locator("#reference-note").inner_text()
    chosen.select_option(label="SGD at equal compute")
    assert cell.inner_text() == first


def test_curves_are_drawn_against_gradient_passes_where_all_are_known(opened, made):
    write_report([made / "runs"], made / "axis.html")
    page = opened(made / "axis.html")
    assert "against gradient passes, in epochs of SGD" in description(page, ACCURACY)
    assert line(page, ACCURACY, "F-SAM")[0] == [4, 8, 12, 16, 20]  # epochs 1 to 5, of four passes a step
    assert line(page, ACCURACY, "SGD")[0] == [2, 4, 6, 8, 10]
    choose(page, "x axis", "epoch")
    assert line(page, ACCURACY, "F-SAM")[0] == [1, 2, 3, 4, 5]
