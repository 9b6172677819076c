import json
import re
import subprocess
import sys

import pytest
from gnl.experiments.analyze import analyze, render
from gnl.topologies.errors import ScenarioError
from gnl.topologies.files import load_scenario
from gnl.topologies.spec import scenario_from_dict


@pytest.fixture(autouse=True)
def no_earlier_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def analysis_of(*sets, **options):
    return analyze(load_scenario("diamond", ["content.codec=stub:1229", *sets]), **options)


def test_the_document_is_json_and_holds_the_contract():
    document = analysis_of()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert scenario_from_dict(document["scenario"]) == load_scenario("diamond", ["content.codec=stub:1229"])
    for level in ("wire", "payload"):
        assert list(document["analytic"][level]) == [
            "max_flow_bps", "flows_bps", "y_g_bps", "g_flow", "delivery_gain", "contents_per_s",
        ]  # fmt: skip
        assert list(document["analytic"][level]["flows_bps"]) == ["s-r", "r-d", "s-g", "g-d"]


def test_figures_of_fig_1_written_out():
    """By hand: L = 196,616 + 140 * 74 and L_p = 1,229 + 74 bytes on the wire; g-d binds."""
    document = analysis_of()
    per_s = 20e6 / 8 / (196_616 + 140 * 74)
    y_g = 20e6 - per_s * 8 * (1229 + 74)
    assert document["prompt_rate"]["lambda_per_s"] == pytest.approx(per_s)
    assert document["prompt_rate"]["binds"] == ["g-d"]
    assert document["prompt_rate"]["limits_per_s"]["R_g"] is None
    assert document["analytic"]["wire"]["g_flow"] == pytest.approx(1 + y_g / 12e6)
    assert document["analytic"]["wire"]["delivery_gain"] == pytest.approx(2.5)
    assert document["min_cut"] == {"links": ["s-r", "s-g"], "capacity_bps": 12_000_000}
    links = {link["link"]: link for link in document["phases"]["generate"]["links"]}
    assert links["s-g"]["utilisation"] == pytest.approx(per_s * 8 * 1303 / 2e6)


def test_the_text_shows_what_the_document_holds():
    document = analysis_of("links.s-g.bw_mbit=2.5")
    text = render(document)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if re.match(r"  [srgd]-[srgd] ", line)}
    for before, after in zip(document["phases"]["replicate"]["links"], document["phases"]["generate"]["links"]):
        assert rows[after["link"]] == [
            after["link"],
            f"{after['capacity_bps'] / 1e6:.4f}",
            f"{before['wire_bps'] / 1e6:.4f}",
            f"{before['utilisation']:.1%}",
            f"{after['wire_bps'] / 1e6:.4f}",
            f"{after['utilisation']:.1%}",
            f"{after['payload_bps'] / 1e6:.4f}",
        ]
    wire, payload = document["analytic"]["wire"], document["analytic"]["payload"]
    assert re.search(rf"G_flow \(Eq. 3\) +{wire['g_flow']:.4f} +{payload['g_flow']:.4f}", text)
    assert re.search(rf"delivery gain +{wire['delivery_gain']:.4f} +{payload['delivery_gain']:.4f}", text)
    assert re.search(rf"max-flow f'_sd +Mbit/s +12.5000 +{payload['max_flow_bps'] / 1e6:.4f}", text)
    assert "min-cut s-r + s-g = 12.5000 Mbit/s" in text
    assert "bound by g-d" in text and document["differences"]["wire"] in text
    assert max(len(line) for line in text.splitlines() if line.startswith("  ")) <= 100


def test_r_g_of_the_user_goes_before_the_scenarios():
    assert analysis_of()["generation_rate_images_per_s"] is None
    assert analysis_of("generation_rate_images_per_s=9")["prompt_rate"]["lambda_per_s"] == 9
    document = analysis_of("generation_rate_images_per_s=9", generation_rate_images_per_s=4)
    assert (document["prompt_rate"]["lambda_per_s"], document["prompt_rate"]["binds"]) == (4, ["R_g"])
    assert "bound by R_g" in render(document) and "R_g unlimited" not in render(document)


def test_where_both_gains_agree_nothing_is_explained():
    document = analysis_of(content_bytes=200_000, prompt_bytes=100_000)
    assert document["differences"]["wire"] is None
    assert "wire: " not in render(document)


def test_a_codec_that_replicates():
    document = analysis_of("content.codec=jpeg:30", prompt_bytes=6000)
    assert document["prompt_rate"] is None and not document["generates"]
    text = render(document)
    assert "the codec does not generate" in text and "lambda*" not in text
    assert re.search(r"G_flow \(Eq. 3\) +1.0000 +1.0000", text)


def test_below_f_min():
    document = analysis_of("f_min_mbit=1.9")
    assert document["prompt_rate"]["feasible"] is False and "f_min" in document["prompt_rate"]["violated"]
    assert "infeasible: f_min" in render(document)


def test_loss_and_ipv6_reach_the_text():
    text = render(analysis_of("links.g-d.loss_percent=1", "ip_version=6"))
    assert "IPv6" in text and "packets are lost on g-d" in text


def test_a_network_that_is_no_diamond_is_refused():
    with pytest.raises(ScenarioError, match="exactly one"):
        analysis_of("nodes.g.role=router")


def test_nothing_heavy_is_imported():
    """What keeps `gnl analyze` quick: no tensor library, no emulator, no solver."""
    program = (
        "import sys\n"
        "from gnl.topologies.files import load_scenario\n"
        "from gnl.experiments.analyze import analyze, render\n"
        "render(analyze(load_scenario('diamond', ['content.codec=stub:1229']), prompt_bytes=1229))\n"
        "print(*{'torch', 'mininet', 'scipy', 'networkx', 'matplotlib', 'rich', 'compressai'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
