"""The text of a result: the figures of the document, in their units, on the right links, with the verdict."""

import copy
import re

import pytest
from gnl.experiments.summary import render
from report_run import LINKS, result_tree


def whole(repeats=1):
    """A result as `gnl run` writes it, with the parts that the report does without."""
    tree = result_tree(repeats=repeats)
    tree["plan"] = {
        "paths": [["s", "r", "d"], ["s", "g", "d"]],
        "binds": ["g-d"],
        "lambda_per_s": 12.0787,
        "sentence": None,
        "notes": [],
        "min_cut": ["s-r", "s-g"],
    }
    tree["skipped_images"] = []
    for link in tree["run"]["scenario"]["links"].values():
        link.setdefault("bw_back_mbit", None)
        link.setdefault("loss_percent", 0.0)
    tree["codec"].setdefault("generation_rate_images_per_s", None)
    tree["measured"].setdefault("ci95", None)
    tree["quality"].setdefault("images", 8)
    return tree


def line_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


@pytest.mark.parametrize("name", LINKS)
def test_each_link_has_its_capacity_its_flows_and_their_difference(name):
    tree = whole()
    predicted, measured = (tree[side]["wire"]["flows_bps"][name] for side in ("analytic", "measured"))
    found = line_of(render(tree, "out"), f"{name} ").split()
    assert found == [
        name,
        f"{LINKS[name]:g}",
        f"{predicted / 1e6:.4f}",
        f"{measured / 1e6:.4f}",
        f"{measured / 1e4 / LINKS[name]:.1f}%",
        f"{100 * (measured / predicted - 1):+.2f}%",
    ]


def test_a_link_that_is_written_towards_the_source_has_the_capacity_towards_the_sink():
    tree = whole()
    links = tree["run"]["scenario"]["links"]
    links["d-g"] = {**links.pop("g-d"), "bw_mbit": 3.0, "bw_back_mbit": 20.0}
    for side in ("analytic", "measured"):
        for level in ("wire", "payload"):
            flows = tree[side][level]["flows_bps"]
            flows["d-g"] = flows.pop("g-d")
    assert line_of(render(tree, "out"), "d-g ").split()[1] == "20"
    links["d-g"]["bw_back_mbit"] = None
    assert line_of(render(tree, "out"), "d-g ").split()[1] == "3"


def test_gains_stand_at_both_levels():
    tree = whole()
    text = render(tree, "out")
    for level in ("wire", "payload"):
        found = re.search(rf"^{level} +G_flow \(Eq\. 3\) +(\S+) +(\S+) +(\S+)$", text, re.M)
        predicted, measured = tree["analytic"][level]["g_flow"], tree["measured"][level]["g_flow"]
        assert found.groups() == (f"{predicted:.4f}", f"{measured:.4f}", f"{100 * (measured / predicted - 1):+.2f}%")


def test_intervals_stand_beside_their_own_figure():
    tree = whole(repeats=3)
    tree["measured"]["ci95"] = {"g_flow": [2.5, 2.75], "max_flow_bps": [11e6, 13e6], "payload": {"g_flow": [1.25, 1.5]}}
    text = render(tree, "out")
    assert re.search(r"^wire +G_flow .* 2\.5000 \.\. 2\.7500$", text, re.M)
    assert re.search(r"^payload +G_flow .* 1\.2500 \.\. 1\.5000$", text, re.M)
    assert re.search(r"^wire +max-flow .* 11\.0000 \.\. 13\.0000$", text, re.M)
    assert len(re.findall(r" \.\. ", text)) == 3


def test_figures_that_are_not_known_are_a_dash():
    tree = whole()
    tree["measured"]["wire"]["g_flow"] = None
    tree["analytic"]["wire"]["y_g_bps"] = 0.0
    text = render(tree, "out")
    assert re.search(r"^wire +G_flow \(Eq\. 3\) +\S+ +- +-$", text, re.M)
    assert re.search(r"^wire +divergence .* -$", text, re.M)


def test_the_verdict_is_the_documents():
    tree = whole()
    assert "valid: links calibrated, nothing lost, the machine kept up" in render(tree, "out")
    bad = {**copy.deepcopy(tree), "valid": False, "reasons": ["first", "second"]}
    text = render(bad, "out")
    assert "NOT VALID:\n  - first\n  - second" in text and "nothing lost" not in text


def test_nothing_lost_is_not_said_of_links_that_were_to_lose():
    tree = whole()
    tree["run"]["scenario"]["links"]["r-d"]["loss_percent"] = 1.0
    assert "nothing lost but what links were to lose" in render(tree, "out")


def test_what_was_skipped_and_what_the_plan_notes_is_said():
    tree = whole()
    tree["skipped_images"] = [{"name": "bad.jpg", "reason": "not an image"}]
    tree["plan"]["notes"], tree["plan"]["sentence"] = ["the codec does not generate"], "d receives 2.5 times f'_sd"
    text = render(tree, "runs/x")
    for words in (
        "skipped bad.jpg: not an image",
        "the codec does not generate",
        "d receives 2.5 times",
        "runs/x/report.html",
        "lambda* = 12.079 prompts/s, held down by g-d",
    ):
        assert words in text


def test_tables_fit_a_terminal_of_a_hundred_columns():
    tree = whole(repeats=3)
    tree["measured"]["ci95"] = {"max_flow_bps": [11e6, 13e6], "payload": {}}
    for line in render(tree, "out").splitlines():
        if line.startswith(("wire", "payload", "s-", "r-", "g-", "link")):
            assert len(line) <= 100
