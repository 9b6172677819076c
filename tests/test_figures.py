"""The figures: every line is in the picture and in the CSV beside it, and all come from the saved points alone."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from gnl.experiments import cli, curves
from gnl.experiments.case_study import write_case_study
from gnl.experiments.figures import _COLOURS, _MARKERS, FIGURE_WEIGHTS
from gnl.experiments.optimize import OptimizeOptions, optimize
from PIL import Image
from test_optimize import document

NAMES = ("fig2-perception", "fig3-distortion", "fig4a-prompt-size", "fig4b-gain")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    (folder / "curves.json").write_text(json.dumps(document()))
    return folder, write_case_study(OptimizeOptions(folder / "curves.json"), folder / "out").written


def test_there_are_four_as_pictures_and_data(drawn):
    folder, written = drawn
    expected = {f"{name}{end}" for name in NAMES for end in (".csv", ".png", ".pdf")}
    assert {path.name for path in written} == expected | {"case-study.html"}
    for name in NAMES:
        picture = np.asarray(Image.open(folder / "out" / f"{name}.png").convert("RGB"))
        assert picture.shape[1] == 1050 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100  # 3.5 in of 300 dpi
        assert (folder / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_data_are_the_optima(drawn):
    folder, _ = drawn
    rows = list(csv.reader(open(folder / "out" / "fig4b-gain.csv")))
    assert rows[0][1:3] == ["quality weight $w$", "gain $G_{flow}$"]
    found = optimize(OptimizeOptions(folder / "curves.json", weights=FIGURE_WEIGHTS))
    expected = [(one["name"], one["metric"], best["g_flow"]) for one in found["series"] for best in one["optima"]]
    assert [row[0] for row in rows[1:]] == [f"{name}, {metric}" for name, metric, _ in expected]
    assert [float(row[2]) for row in rows[1:]] == pytest.approx([gain for _, _, gain in expected], rel=1e-5)


def test_points_and_fits_are_both_there(drawn):
    folder, _ = drawn
    rows = list(csv.reader(open(folder / "out" / "fig2-perception.csv")))[1:]
    names = {row[0] for row in rows}
    assert {"PE GenAI", "PE GenAI, fit", "PE JPEG", "PS GenAI, gnl-low, fit"} <= names
    assert sum(row[0] == "PE GenAI" for row in rows) == 4


def test_the_command_says_what_it_wrote(drawn, tmp_path):
    folder, _ = drawn
    done = CliRunner().invoke(cli.main, ["figures", str(folder / "curves.json"), "--out", str(tmp_path), "--c-sg", "2"])
    assert done.exit_code == 0 and str(tmp_path / "fig4b-gain.pdf") in done.output.splitlines()
    done = CliRunner().invoke(cli.main, ["figures", str(tmp_path / "absent.json")])
    assert done.exit_code == 2 and "No such file" in done.stderr


def test_photographs_are_measured_first(tmp_path, monkeypatch):
    asked = []

    def measured(options):
        asked.append(options)
        options.out.mkdir()
        (options.out / "curves.json").write_text(json.dumps(document()))

    monkeypatch.setattr(curves, "measure_curves", measured)
    out = tmp_path / "out"
    done = CliRunner().invoke(cli.main, ["figures", "--images", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0 and (out / "case-study.html").exists() and asked[0].images == (tmp_path,)
    for arguments in ([], ["--images", str(tmp_path)], [str(out / "curves.json"), "--images", str(tmp_path)]):
        done = CliRunner().invoke(cli.main, ["figures", *arguments])
        assert done.exit_code == 2 and "give either CURVES" in done.stderr


def test_the_lines_of_the_case_study_look_different():
    """Nine series: the ninth once looked like the first."""
    looks = [(_COLOURS[n % len(_COLOURS)], _MARKERS[n % len(_MARKERS)]) for n in range(110)]
    assert len(set(looks)) == 110 and len(set(_COLOURS)) == len(_COLOURS) >= 9
