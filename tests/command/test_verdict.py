"""`fsamlab verdict`: from collected runs to a table, JSON and Markdown."""

import json

import pytest
import yaml
from support.made_frames import frame, one_run

from fsamlab.command.main import main


@pytest.fixture
def verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    found = [one_run(m, s, 0.7 + gain + 0.01 * s * s) for m, gain in (("sgd", 0.0), ("sam", 0.03)) for s in range(4)]
    for number, row in enumerate(found):
        row["run_id"] = f"run-{number}"
        row["final/test/acc1"] += 0.001 * (number % 3)
    frame(*found).to_csv(tmp_path / "results.csv", index=False)

    def judge(*words, **more):
        groups = {name: {"optimizer.name": name} for name in ("sgd", "sam")}
        claims = [{"claim": "sam > sgd", "says": "SAM generalises better", "source": "Foret et al. 2021"}]
        content = {"runs": ["results.csv"], "groups": groups, "claims": claims, **more}
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content))
        code = main(["verdict", str(tmp_path / "claims.yaml"), *words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return judge


def test_the_table_has_numbers_and_verdict(verdict):
    code, out, err = verdict()
    assert (code, err) == (0, "")
    (row,) = [line for line in out.splitlines() if line.startswith("│ sam > sgd")]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:3] == ["sam > sgd", "4", "+3.03"]
    assert cells[4] == "4 of 4"
    assert cells[-1] == "holds"
    said = " ".join(out.split())  # lines are wrapped
    assert "sam > sgd: SAM generalises better; Foret et al. 2021; final/test/acc1, points: sam 76.6, sgd 73.58" in said
    assert "corrected for 1 claims (Holm)" in said


def test_exit_codes_tell_the_verdicts_apart(verdict):
    fails, undecided = {"claim": "sam < sgd"}, {"claim": "sam > 75"}
    assert verdict(claims=[undecided])[0] == 4
    assert verdict(claims=[fails, undecided])[0] == 3


def test_json_and_markdown_have_the_same_numbers(verdict):
    code, out, _ = verdict("--json")
    found = json.loads(out)
    (one,) = found["claims"]
    assert (code, found["exit"], one["verdict"], one["n"]) == (0, 0, "holds", 4)
    assert one["low"] < one["mean"] < one["high"]
    assert (one["equal_compute"], one["passes"]) == (False, [None, None])
    _, text, _ = verdict("--markdown")
    assert text.splitlines()[2] == (
        f"| `sam > sgd` | SAM generalises better (Foret et al. 2021) | 4 | {one['mean']:+.2f} | "
        f"{one['low']:+.2f} to {one['high']:+.2f} | 4 of 4 | points | **holds** |"
    )


def test_markdown_says_where_the_runs_come_from(verdict):
    claims = [{"claim": "sam > sgd"}, {"claim": "sam > 75", "see": "[radius](rho.svg)"}]
    head, _, first, second = verdict("--markdown", claims=claims, see="`mini/headline`")[1].splitlines()
    assert head.endswith("| verdict | see |")
    assert first.endswith("| **holds** | `mini/headline` |")
    assert second.endswith("| [radius](rho.svg) |")
    alone = verdict("--markdown", claims=claims)[1].splitlines()
    assert alone[2].endswith("| **holds** |  |")
    folded = verdict("--markdown", claims=claims[:1], see="of two | lines\nof YAML\n")[1].splitlines()
    assert folded[2].endswith("| **holds** | of two \\| lines of YAML |")
    code, _, err = verdict(see=3)
    assert code == 1
    assert "see" in err


def test_missing_files_are_one_line(verdict, tmp_path, capsys):
    code, _, err = verdict(runs=["results.csv", "absent.csv"])
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "absent.csv" in err
    assert main(["verdict", str(tmp_path / "no.yaml")]) == 1
    assert "no.yaml" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "has no column run_id" in verdict(runs=["other.csv"])[2]
