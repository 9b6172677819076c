"""The realised network: shapers as the spec says, real rates, loss, interception and its end."""

import json
import os
import signal
import subprocess
import time

import pytest
from emulated import diamond, emulation, wait_until
from gnl.experiments.calibration import calibrate, require_calibrated
from gnl.experiments.measure import image_counts, link_losses, read_losses
from gnl.node_apps.protocol.header import PROMPT_PORT
from gnl.topologies.errors import MachineError, RunError
from gnl.topologies.impairment import kernel_has_netem
from gnl.topologies.network import EmulatedNetwork

pytestmark = pytest.mark.emulation


def names_of_interfaces():
    return set(os.listdir("/sys/class/net"))


def test_every_direction_carries_what_the_spec_says(tmp_path):
    """0.1 to 40 Mbit/s, each direction with a capacity of its own, measured with iperf3 at the receiver's counter."""
    links = {
        "s-r": {"bw_mbit": 0.1, "bw_back_mbit": 3},
        "r-d": {"bw_mbit": 12.5},
        "s-g": {"bw_mbit": 1.234567},
        "g-d": {"bw_mbit": 40, "bw_back_mbit": 0.5},
    }
    with emulation(diamond(links), tmp_path, decoder=False) as emulated:
        rows = calibrate(emulated.network, emulated.sampler, emulated.processes)
    assert {(row["direction"], row["configured_mbit"]) for row in rows} == {
        ("s->r", 0.1),
        ("r->s", 3),
        ("r->d", 12.5),
        ("d->r", 12.5),
        ("s->g", 1.234567),
        ("g->s", 1.234567),
        ("g->d", 40),
        ("d->g", 0.5),
    }
    for row in rows:
        assert row["measured_mbit"] == pytest.approx(row["configured_mbit"], rel=0.01), row


def test_ipv6_links_carry_what_the_spec_says(tmp_path):
    with emulation(diamond(ip_version=6), tmp_path, decoder=False) as emulated:
        require_calibrated(calibrate(emulated.network, emulated.sampler, emulated.processes))


def test_a_shaper_that_is_not_as_specified_is_found():
    with EmulatedNetwork(diamond(), PROMPT_PORT) as network:
        network.verify_shapers()
        network.run_inside(
            "s", *"tc class change dev s-g parent 5: classid 5:1 htb rate 1900000bit ceil 1900000bit".split()
        )
        with pytest.raises(MachineError, match="s->g is shaped to 1900000 bit/s in the kernel: wanted 2000000"):
            network.verify_shapers()
        network.run_inside("s", *"tc qdisc del dev s-g root".split())
        with pytest.raises(MachineError, match="s->g is unshaped"):
            network.verify_shapers()


def test_a_link_that_cannot_carry_its_rate_stops_the_run_with_what_was_reached(tmp_path):
    with emulation(diamond(), tmp_path, decoder=False) as emulated:
        emulated.network.run_inside(
            "g", *"tc class change dev g-d parent 5: classid 5:1 htb rate 9mbit ceil 9mbit burst 56k cburst 56k".split()
        )
        with pytest.raises(RunError, match=r"g->d carries (8\.9|9\.0|9)\d* Mbit/s here, not the 16 of the spec"):
            require_calibrated(calibrate(emulated.network, emulated.sampler, emulated.processes))


def test_nothing_is_left_and_no_name_of_the_host_was_used():
    before = names_of_interfaces()
    with EmulatedNetwork(diamond(), PROMPT_PORT) as network:
        pids = [network.pid(name) for name in "srgd"]
        assert names_of_interfaces() == before
    assert names_of_interfaces() == before
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_network_that_cannot_be_built_is_taken_down_again(monkeypatch):
    made = []
    monkeypatch.setattr(EmulatedNetwork, "verify_shapers", lambda self: made.append(self.pid("s")) or 1 / 0)
    with pytest.raises(ZeroDivisionError), EmulatedNetwork(diamond(), PROMPT_PORT):
        pytest.fail("entered a network that is not verified")
    assert made and not os.path.exists(f"/proc/{made[0]}")


def test_loss_takes_its_share_behind_the_receivers_counter(tmp_path):
    """A lost packet has used the link: the interface counts it, the sink does not."""
    scenario = diamond({"r-d": {"loss_percent": 10}})
    with emulation(scenario, tmp_path, decoder=False) as emulated:
        before = read_losses(emulated.network, emulated.sampler)
        traffic = emulated.replicate(duration_s=4)
        losses = link_losses(emulated.network, before, read_losses(emulated.network, emulated.sampler))
    seen = losses["r->d"]
    assert seen["sent"] == seen["received"] > 3000
    assert seen["lost_on_purpose"] / seen["received"] == pytest.approx(0.10, abs=0.02)
    assert losses["g->d"]["lost_on_purpose"] == 0
    received = traffic.sink["counters"]["packets"]
    assert received == seen["received"] + losses["g->d"]["received"] - seen["lost_on_purpose"]


def test_delay_is_made_by_netem_or_refused():
    scenario = diamond({"s-g": {"delay_ms": 30}})
    if not kernel_has_netem():
        before = names_of_interfaces()
        with pytest.raises(MachineError, match="links.s-g.delay_ms is 30, and this kernel has no netem"):
            EmulatedNetwork(scenario, PROMPT_PORT).__enter__()
        assert names_of_interfaces() == before
        return
    with EmulatedNetwork(scenario, PROMPT_PORT) as network:
        assert "delay 30ms" in network.run_inside("s", "tc", "qdisc", "show", "dev", "s-g")


@pytest.mark.parametrize("ip_version", [4, 6])
def test_prompts_become_contents_in_the_sources_name(tmp_path, ip_version):
    with emulation(diamond(ip_version=ip_version), tmp_path) as emulated:
        traffic = emulated.generate(duration_s=2)
        source = emulated.network.plan.node("s")
    counts = image_counts(emulated.plan, traffic)
    assert counts["generated"] > 20 and counts["plain"] > 20
    assert counts["sent"] == counts["delivered"] == counts["generated"] + counts["plain"]
    assert {fact["source"] for fact in traffic.facts} == {source}
    assert {(fact["flow"], fact["kind"], fact["made"]) for fact in traffic.facts} == {
        (0, "plain", "none"),
        (1, "content", "explicit"),
    }
    for fact in traffic.facts:
        if fact["kind"] == "plain":
            assert fact["crc"] == emulated.catalogue.entries[fact["content"] % len(emulated.catalogue)].content_crc


def test_plain_traffic_never_enters_the_router_program(tmp_path):
    """Plain images by g, while its router program runs: the kernel forwards all of them."""
    with emulation(diamond(), tmp_path) as emulated:
        router = emulated.runner._start_router(emulated.plan)
        router.wait_ready()
        traffic = emulated.replicate(duration_s=1)
        said = router.stop()
    assert {fact["flow"] for fact in traffic.facts if fact["complete"]} == {0, 1}
    assert said["counters"].get("received", 0) == 0


def test_forwarding_goes_on_when_the_router_program_is_killed(tmp_path):
    """SIGKILL in mid-run: prompts that g no longer takes reach d as prompts, and plain images go on as before."""
    killed = []

    def kill_router(start_s, stop_s):
        time.sleep(max(0.0, start_s + 1.5 - time.monotonic()))
        killed.append(time.monotonic())
        os.kill(emulated.router_pid(), signal.SIGKILL)
        time.sleep(max(0.0, stop_s - time.monotonic()))

    with emulation(diamond(), tmp_path) as emulated:
        started = emulated.processes.program
        programs = []
        emulated.runner.processes.program = lambda *args: programs.append(started(*args)) or programs[-1]
        with pytest.raises(RunError, match="genai_router in g ended early"):
            emulated.generate(duration_s=3, meanwhile=kill_router)
        sink, router, source = programs
        source.wait(20)
        time.sleep(1)
        sink.stop()
    facts = [json.loads(line) for line in open(tmp_path / "generate" / "contents.jsonl")]
    after = [
        fact for fact in facts if fact["t_first_s"] > killed[0] + 0.8
    ]  # what g had handed to the kernel has gone by then
    assert {fact["kind"] for fact in after} == {"plain", "prompt"}
    assert all(fact["complete"] for fact in after)


def test_a_killed_decoder_worker_costs_no_prompt(tmp_path):
    def kill_worker(start_s, stop_s):
        time.sleep(max(0.0, start_s + 1.0 - time.monotonic()))
        service = emulated.decoder.process.pid
        child = subprocess.run(["pgrep", "-P", str(service)], capture_output=True, text=True).stdout.split()
        workers = subprocess.run(["pgrep", "-P", child[0]], capture_output=True, text=True).stdout.split()
        os.kill(int(workers[0]), signal.SIGKILL)

    with emulation(diamond(), tmp_path) as emulated:
        traffic = emulated.generate(duration_s=2, meanwhile=kill_worker)
    counts = image_counts(emulated.plan, traffic)
    assert counts["sent"] == counts["delivered"] and counts["failed"] == 0


def test_without_a_decoder_service_prompts_go_on_to_the_sink(tmp_path):
    def kill_service(start_s, stop_s):
        time.sleep(max(0.0, start_s + 1.0 - time.monotonic()))
        emulated.decoder.process.kill()

    with emulation(diamond(), tmp_path) as emulated:
        traffic = emulated.generate(duration_s=2, meanwhile=kill_service)
    counts = image_counts(emulated.plan, traffic)
    assert counts["failed"] > 0 and counts["generated"] > 0
    assert counts["sent"] == counts["delivered"] + counts["failed"]


def test_a_codec_that_does_not_generate_is_only_forwarded(tmp_path):
    with emulation(diamond(codec="jpeg:30"), tmp_path, decoder=False) as emulated:
        traffic = emulated.generate(duration_s=1)
    assert traffic.router is None
    assert {fact["kind"] for fact in traffic.facts} == {"plain", "prompt"}
    counts = image_counts(emulated.plan, traffic)
    assert counts["sent"] == counts["delivered"] == counts["plain"] and counts["generated"] == 0


def test_counters_of_the_kernel_agree_with_tcpdump(tmp_path):
    """An independent count of the packets and bytes of one link."""
    with emulation(diamond(), tmp_path, decoder=False) as emulated:
        pcap = tmp_path / "r-d.pcap"
        command = emulated.network.inside("d", "tcpdump", "-i", "d-r", "-Z", "root", "-B", "8192", "-w", str(pcap))
        capture = emulated.processes.start(command, "tcpdump", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_until(pcap.exists)
        time.sleep(0.5)
        before = read_losses(emulated.network, emulated.sampler)
        emulated.replicate(duration_s=1)
        losses = link_losses(emulated.network, before, read_losses(emulated.network, emulated.sampler))
        time.sleep(1)
        emulated.processes.stop([capture])
    from scapy.utils import RawPcapReader

    lengths = [meta.wirelen for _, meta in RawPcapReader(str(pcap))]
    assert len(lengths) == losses["r->d"]["received"]
    assert max(lengths) == 1440 + 42
