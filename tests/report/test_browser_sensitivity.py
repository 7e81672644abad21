"""The page in a real browser: which lines and levels a sensitivity has, and what stands above it."""

import pytest
import yaml
from support.browser import CHART, description, ends, looks, page_of
from support.made_runs import make_run


def run(directory, optimizer, seed=0, batch_size=32, width=None, **of_optimizer):
    """Write a run with further keys of its optimizer, and another batch size or width."""
    path = make_run(directory, optimizer, seed) / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["optimizer"] |= of_optimizer
    config["data"]["batch_size"] = batch_size
    if width is not None:
        config["model"]["width"] = width
    path.write_text(yaml.safe_dump(config))


def chips(page, number=0):
    return page.locator("#sensitivity .legend").nth(number).locator(".chip").all_inner_texts()


def test_what_has_no_value_of_the_key_is_a_level_under_the_same_conditions(opened, tmp_path):
    for i, sigma in enumerate((0.5, 1.0)):
        run(tmp_path / f"fsam{i}", "fsam", sigma=sigma, batch_size=64)
    for batch_size in (16, 64):
        for optimizer in ("sam", "sgd"):
            run(tmp_path / f"{optimizer}{batch_size}", optimizer, sigma=None, batch_size=batch_size)
    page = page_of(opened, tmp_path)
    title = page.locator("#sensitivity figcaption", has_text="optimizer.sigma")
    assert title.count() == 1
    number = page.locator("#sensitivity figcaption").all_inner_texts().index("sensitivity to optimizer.sigma")
    assert chips(page, number) == ["F-SAM", "SAM", "SGD"]
    assert "All with batch_size 64." in page.locator("#sensitivity").inner_text()
    found = ends(description(page, CHART.format("sensitivity to optimizer.sigma")))
    assert {name: value[2] for name, value in found.items()} == {"F-SAM": 1, "SAM": 1, "SGD": 1}


def test_a_level_at_another_radius_is_none(opened, tmp_path):
    for i, sigma in enumerate((0.5, 1.0)):
        run(tmp_path / f"fsam{i}", "fsam", sigma=sigma, rho=0.2)
    for rho in (0.1, 0.2):
        run(tmp_path / f"sam{rho}", "sam", sigma=None, rho=rho)
    run(tmp_path / "sgd", "sgd", sigma=None, rho=0.0)  # which has no radius
    page = page_of(opened, tmp_path)
    number = page.locator("#sensitivity figcaption").all_inner_texts().index("sensitivity to optimizer.sigma")
    assert chips(page, number) == ["F-SAM, rho 0.2", "SAM, rho 0.2", "SGD, rho 0"]


def test_single_points_are_beside_no_line(opened, tmp_path):
    for rho in (0.1, 0.2):
        make_run(tmp_path / f"sam{rho}", "sam", rho=rho)
    make_run(tmp_path / "fsam", "fsam", rho=0.2)
    page = page_of(opened, tmp_path)
    assert chips(page) == ["SAM"]
    assert set(ends(description(page, CHART.format("sensitivity to optimizer.rho")))) == {"SAM"}


def test_keys_that_change_with_it_are_in_the_caption(opened, tmp_path):
    for width, batch_size in ((8, 16), (16, 32)):
        run(tmp_path / f"{width}", "sam", width=width, batch_size=batch_size)
    page = page_of(opened, tmp_path)
    assert page.locator("#sensitivity figcaption").all_inner_texts() == [
        "sensitivity to data.batch_size (model.width changes with it)"
    ]


def test_the_list_of_runs_says_what_diverged(opened, tmp_path):
    make_run(tmp_path / "made", summary={"train/diverged_at": 17})
    page = page_of(opened, tmp_path)
    page.locator("#runs summary").click()
    assert "finished, diverged at step 17" in page.locator("#runs tbody tr").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_families_of_two_methods_differ_and_keep_their_colour(opened, tmp_path, scheme):
    for method in ("sam", "fsam"):
        for i in range(6):
            make_run(tmp_path / f"{method}{i}", method, rho=0.1 * (i + 1), epochs=1)
    page = page_of(opened, tmp_path, scheme=scheme)
    found = looks(page)
    sam, fsam = ([look for name, look in found.items() if name.startswith(method)] for method in ("SAM", "F-SAM"))
    assert [dash for _, dash in sam] != [dash for _, dash in fsam]
    assert all(a[1] != b[1] for a, b in zip(sam[1:], fsam[1:]))
    shades = [int(colour.rsplit(" ", 1)[1].removesuffix("%)")) for colour, _ in sam[1:]]
    assert max(shades) == 45
