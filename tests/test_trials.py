"""The runs of a validation: each prompt size of the figure gets a codec that makes it, and each run is made once."""

import json

import pytest
from gnl.experiments.optimize import OptimizeOptions, optimize
from gnl.experiments.trials import FIGURE, SCALABLE, Trial, codec_at, grid, trials_of_figure
from gnl.node_apps.codecs.registry import describe
from gnl.node_apps.protocol.header import PAYLOAD_BYTES
from gnl.topologies.errors import UsageError
from gnl.topologies.spec import ContentSpec
from test_optimize import L, document


def series(name, codecs, bpp, generates=True):
    return {"name": name, "codecs": [*codecs, ""], "bpp": [*bpp, L], "generates": generates}


PE = series("PE GenAI", ("gnl-low", "gnl-medium", "gnl-high"), (0.14, 0.3, 0.45))
SCALED = series("PE GenAI, scalable", (SCALABLE,) * 3, (0.1, 0.3, 1.0))
PE_JPEG = series("PE JPEG", ("jpeg:5", "jpeg:30"), (0.2, 0.8), generates=False)
PS = series("PS GenAI, gnl-low", ("gnl-low",) * 3, (0.14, 0.6, 1.6))


@pytest.mark.parametrize(
    "line, size, expected",
    [
        (PE, 0.14, ("gnl-low", None)),
        (PE, 0.4501, ("gnl-high", None)),
        (PE, 0.22, (SCALABLE, 0.22)),
        (PE, 2.0, ("ps:gnl-high", 2.0)),
        (SCALED, 0.3, (SCALABLE, 0.3)),
        (SCALED, 2.0, ("ps:gnl-scalable", 2.0)),
        (PE_JPEG, 0.2, ("jpeg:5", None)),
        (PE_JPEG, 0.5, ("ps:jpeg:5", 0.5)),
        (PE_JPEG, L, ("ps:jpeg:30", L)),
        (PS, 0.14, ("gnl-low", None)),
        (PS, 0.6, ("ps:gnl-low", 0.6)),
        (PS, 1.6, ("ps:gnl-low", 1.6)),
        (PS, 0.3, ("ps:gnl-low", 0.3)),
        (PS, L, ("ps:gnl-low", L)),
    ],
)
def test_a_prompt_size_has_a_codec(line, size, expected):
    assert codec_at(line, size) == expected


@pytest.fixture
def curves(tmp_path):
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(document()))
    return path


def test_every_optimum_has_one_trial(curves):
    found = optimize(OptimizeOptions(curves))
    trials = trials_of_figure(found)
    wanted = [(one["name"], one["metric"], best["w"]) for one in found["series"] for best in one["optima"]]
    had = [(best["series"], best["metric"], best["w"]) for optima in trials.values() for best in optima]
    assert sorted(had) == sorted(wanted) and len(trials) < len(wanted)
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        assert trial.kind == FIGURE and trial.through_g
        assert (trial.c_sg, trial.c_gd) == (pytest.approx(3.184 / L), 1.0)
        describe(trial.codec)


def test_a_larger_max_flow_goes_by_r(curves):
    trials = trials_of_figure(optimize(OptimizeOptions(curves, max_flow=3.184 + L)))
    alone = trials_of_figure(optimize(OptimizeOptions(curves)))
    assert not {trial.name for trial in trials} & {trial.name for trial in alone}
    assert [trial.by_router for trial in trials] == pytest.approx([1.0] * len(trials))
    assert not any(trial.through_g for trial in trials)
    with pytest.raises(UsageError, match="f'_sd = 2 is below the 3.184 that the path by g replicates"):
        trials_of_figure(optimize(OptimizeOptions(curves, max_flow=2.0)))


def test_a_generation_rate_is_held(curves):
    trials = trials_of_figure(optimize(OptimizeOptions(curves, generation_rate=L / 2)))
    assert [trial.generation_rate for trial in trials] == pytest.approx([0.5] * len(trials))
    scenario = next(iter(trials)).scenario(ContentSpec(), 1e5, 10)
    assert scenario.generation_rate_images_per_s == pytest.approx(5)


def test_the_grid_has_what_is_asked_for():
    trials = list(grid())
    assert len({trial.name for trial in trials}) == len(trials) >= 24
    assert any(trial.c_sg > trial.c_gd for trial in trials)
    assert sum(trial.bpp is not None and trial.c_sg * L / trial.bpp < trial.c_gd for trial in trials) >= 5
    assert any(trial.generation_rate and trial.generation_rate < trial.c_gd for trial in trials)
    assert any(trial.bpp and trial.bpp * 256**2 / 8 < PAYLOAD_BYTES for trial in trials)


def test_capacities_are_contents_a_second():
    trial = Trial("grid", SCALABLE, 0.1, c_sg=0.2, c_gd=2.0, by_router=0.5)
    scenario = trial.scenario(ContentSpec(), content_wire_bits=4e5, contents_per_s=10)
    assert {link.name: link.bw_mbit for link in scenario.links} == {"s-r": 2, "r-d": 2, "s-g": 0.8, "g-d": 8}


def test_an_optimum_below_eq_4_is_held_there():
    best = {"w": 1.0, "prompt_size": 0.3, "rate_per_s": 0.25, "g_flow": 1.1}
    problem = {"content_size": L, "c_sg": 3.0, "c_gd": L, "max_flow": 3.0, "generation_rate": None}
    (trial,) = trials_of_figure({"problem": problem, "series": [{**PE, "metric": "perception", "optima": [best]}]})
    assert trial.generation_rate == 0.25
    best["rate_per_s"] = 1.0
    (trial,) = trials_of_figure({"problem": problem, "series": [{**PE, "metric": "perception", "optima": [best]}]})
    assert trial.generation_rate is None


def test_a_full_link_to_g_holds_no_rate(curves):
    trials = trials_of_figure(optimize(OptimizeOptions(curves, c_sg=0.5)))
    assert all(trial.generation_rate is None for trial in trials)
