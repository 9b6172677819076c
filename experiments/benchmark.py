"""Benchmarks: each prints what was reached, and its ratio to an alternative that was measured in the same run.

gnl bench diamond    all four links at once against the analysis, at the rates of Fig. 1 and at ten times those
gnl bench router     contents that one router program sends unshaped, its decoder stubbed, against kernel forwarding
gnl bench shaping    the rate that a link carries, against Mininet's own TCLink
gnl bench optimum    optimal prompt sizes, against SciPy's global optimiser
gnl bench features   a Frechet distance of images, against torch-fidelity with the same network
gnl bench startup    CPU time until `gnl --help` and `gnl analyze` have answered, against importing the tensor library
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from gnl.controller.plan import plan_run
from gnl.controller.sizes import sizes_of_catalogue
from gnl.node_apps.codecs.registry import describe
from gnl.node_apps.protocol.header import PROMPT_PORT, wire_bytes_of
from gnl.topologies.errors import UsageError
from gnl.topologies.files import load_scenario
from gnl.topologies.named import NAMED
from gnl.topologies.network import EmulatedNetwork
from gnl.topologies.spec import Scenario

from .calibration import calibrate
from .counters import Sampler, Series
from .encoding import prepare_catalogue
from .phases import PhaseRunner
from .processes import Processes, decoder_socket, python_module
from .repeats import GENERATION_HEADROOM, RunOptions
from .result import write_result
from .run import run, start_decoder, wait_decoder
from .run_state import RunState, new_run_id

ROUTER_TARGETS_MBIT = (300, 500, 700, 900, 1100, 1300)
STEADY_S = 8.0


def bench_diamond(codec: str, scale: float, repeat: int, duration_s: float) -> dict:
    """Run the diamond at `scale` times the rates of Fig. 1; errors are relative to the analysis."""
    if not describe(codec).generative:
        raise UsageError(f"{codec} does not generate, which is measured here: give a generative codec (see gnl codecs)")
    sets = [f"links.{link.name}.bw_mbit={link.bw_mbit * scale:g}" for link in NAMED["diamond"].links]
    scenario = load_scenario("diamond", [*sets, f"content.codec={codec}"])
    with tempfile.TemporaryDirectory(prefix="gnl-bench-") as out:
        began_s = time.monotonic()
        record = run(scenario, RunOptions(Path(out), duration_s, repeat, command="gnl bench diamond"))
        result = write_result(record)
        elapsed_s = time.monotonic() - began_s
    windows_s = sum(w[1] - w[0] for r in result["repeats"] for windows in r["windows"].values() for w in windows)
    content_bytes = result["codec"]["content_bytes_mean"]
    link_per_s = scenario.link("g", "d").capacity_bps("g", "d") / 8 / wire_bytes_of(round(content_bytes))
    reached = []
    for repeat in result["repeats"]:
        measured_rate_per_s = repeat["generation_rate_images_per_s"] / GENERATION_HEADROOM
        per_s = repeat["measured"]["payload"]["flows_bps"]["g-d"] / 8 / content_bytes
        reached.append(per_s / min(link_per_s, measured_rate_per_s))
    return {
        "codec": codec,
        "scale": scale,
        "binds": result["plan"]["binds"],
        "valid": result["valid"],
        "reasons": result["reasons"],
        "links_max_error": [r["error"]["wire"]["links_max"] for r in result["repeats"]],
        "g_flow_error": [r["error"]["wire"]["g_flow"] for r in result["repeats"]],
        "g_flow": [r["measured"]["wire"]["g_flow"] for r in result["repeats"]],
        "content_rate_over_min_link_rg": reached,
        "delivery_gain_over_replication": [r["measured"]["wire"]["delivery_gain"] for r in result["repeats"]],
        "outside_windows_s": elapsed_s - windows_s,
        "elapsed_s": elapsed_s,
    }


def bench_router(targets_mbit: tuple[float, ...] = ROUTER_TARGETS_MBIT, side_px: int = 256) -> dict:
    """Contents that g sends unshaped from stubbed prompts, at rising rates, until something is lost.

    The alternative is what the kernel forwards from s through g to d when iperf3 sends datagrams of the same size.
    """
    sets = [f"links.{name}.bw_mbit=2000" for name in ("s-r", "r-d", "s-g", "g-d")]
    scenario = load_scenario("diamond", [*sets, "content.codec=stub:1000", f"content.size_px={side_px}"])
    steps, options = [], RunOptions(Path("."), device="cpu")
    with RunState.acquire(new_run_id()) as state, Processes(state) as processes:
        catalogue, _, _ = prepare_catalogue(scenario.content)
        decoder = start_decoder(processes, scenario, options)
        with EmulatedNetwork(scenario, PROMPT_PORT, shaped=False) as network, Sampler(network) as sampler:
            wait_decoder(decoder)
            runner = PhaseRunner(network, processes, sampler, catalogue, decoder_socket(processes), "raw")
            sizes = sizes_of_catalogue([vars(entry) for entry in catalogue.entries], True, "benchmark")
            runner.install_paths(plan_run(scenario, sizes))
            forwarded_mbit = _iperf3_through(network, processes, sampler)
            for target in targets_mbit:
                steps.append(_router_step(scenario, sizes, runner, sampler, target))
                if not steps[-1]["lossless"]:
                    break
    best = max((step["reached_mbit"] for step in steps if step["lossless"]), default=0.0)
    return {
        "steps": steps,
        "lossless_mbit": best,
        "kernel_forwarding_mbit": forwarded_mbit,
        "ratio_to_kernel_forwarding": best / forwarded_mbit,
    }


def _router_step(scenario: Scenario, sizes, runner: PhaseRunner, sampler: Sampler, target_mbit: float) -> dict:
    content_bits = sizes.means("wire", scenario.ip_version).content_bits
    plan = plan_run(scenario, sizes, target_mbit * 1e6 / content_bits)
    phase = replace(plan.generate, streams=(plan.generate.streams[1],))
    with tempfile.TemporaryDirectory(prefix="gnl-bench-") as out:
        traffic = runner.run(plan, phase, STEADY_S, Path(out), 0)
    series = Series(sampler.samples)
    reached = 8 * series.rate(series.received("g", "d"), traffic.measured_from_s, traffic.stop_s) / 1e6
    sent, complete = traffic.source["flows"][0]["contents"], sum(fact["complete"] for fact in traffic.facts)
    elapsed_s = traffic.stop_s - traffic.start_s
    return {
        "target_mbit": target_mbit,
        "reached_mbit": reached,
        "sent": sent,
        "generated_complete": complete,
        "lossless": sent == complete and reached > 0.98 * target_mbit,
        "router_cpu": traffic.router["cpu_s"] / elapsed_s,
        "sink_cpu": traffic.sink["cpu_s"] / elapsed_s,
        "receive_buffer_drops": traffic.sink["counters"]["receive_buffer_drops"],
        "overflow": traffic.router["counters"].get("overflow", 0),
    }


def _iperf3_through(network: EmulatedNetwork, processes: Processes, sampler: Sampler) -> float:
    """What the kernel forwards through g, in Mbit/s at d's interface: iperf3, datagrams of a content packet's size."""
    network.install_path(["s", "g", "d"], 20009, 1009)
    address, started = network.plan.node("d"), []
    try:
        for node, options in (
            ("d", ["-s", "-1"]),
            (
                "s",
                [
                    "-c",
                    address,
                    "-B",
                    network.plan.node("s"),
                    "--cport",
                    "20009",
                    "-u",
                    "-b",
                    "0",
                    "-l",
                    "1440",
                    "-t",
                    "20",
                ],
            ),
        ):
            command = network.inside(node, "iperf3", "-p", "5301", *options)
            started.append(
                processes.start(command, f"iperf3 in {node}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            time.sleep(0.3)
        start_s = time.monotonic() + 1
        time.sleep(5)
    finally:
        processes.stop(started)
    series = Series(sampler.samples)
    return 8 * series.rate(series.received("g", "d"), start_s, start_s + 3) / 1e6


def bench_shaping(rates_mbit: tuple[float, ...]) -> list[dict]:
    """The rate that one link carries with our shaper and with Mininet's own recipe (HTB with `burst` alone)."""
    rows = []
    for rate in rates_mbit:
        sets = [f"links.{name}.bw_mbit={rate:g}" for name in ("s-r", "r-d", "s-g", "g-d")]
        row = {"rate_mbit": rate}
        for recipe in ("gnl", "mininet"):
            with (
                RunState.acquire(new_run_id()) as state,
                Processes(state) as processes,
                EmulatedNetwork(load_scenario("diamond", sets), PROMPT_PORT) as network,
                Sampler(network) as sampler,
            ):
                if recipe == "mininet":
                    _stock_recipe(network, rate)
                measured = calibrate(network, sampler, processes)
                row[recipe] = [entry["measured_mbit"] / rate for entry in measured]
        row["ratio_of_worst"] = min(row["gnl"]) / min(row["mininet"])
        rows.append(row)
    return rows


def _stock_recipe(network: EmulatedNetwork, rate_mbit: float) -> None:
    """Give every interface the queue that Mininet 2.3.0's TCLink would."""
    for node, neighbour in network.directions():
        interface = f"{node}-{neighbour}"
        network.run_inside(node, "tc", "qdisc", "del", "dev", interface, "root")
        network.run_inside(node, "tc", "qdisc", "add", "dev", interface, "root", "handle", "5:0", "htb", "default", "1")
        network.run_inside(
            node,
            "tc",
            "class",
            "add",
            "dev",
            interface,
            "parent",
            "5:0",
            "classid",
            "5:1",
            "htb",
            "rate",
            f"{rate_mbit:f}Mbit",
            "burst",
            "15k",
        )


def bench_startup(repeat: int) -> list[dict]:
    """CPU seconds of the commands that must answer at once; the alternative imports what they avoid."""
    cli = python_module("experiments.cli")
    commands = {
        "gnl --help": [*cli, "--help"],
        "gnl analyze diamond": [*cli, "analyze", "diamond", "--codec", "jpeg:30"],
        "gnl analyze diamond, sizes given": [
            *cli,
            "analyze",
            "diamond",
            "--content-bytes",
            "196616",
            "--prompt-bytes",
            "1500",
        ],
        "import torch (alternative)": [sys.executable, "-c", "import torch"],
    }
    rows = [
        {"command": name, "cpu_s": median(_cpu_s(command) for _ in range(repeat))} for name, command in commands.items()
    ]
    for row in rows:
        row["ratio_to_alternative"] = row["cpu_s"] / rows[-1]["cpu_s"]
    return rows


def _cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def bench(name: str, codec: str, scale: float, repeat: int, duration_s: float, as_json: bool) -> None:
    """Run one benchmark and print it."""
    if name == "diamond":
        found = bench_diamond(codec, scale, repeat, duration_s)
    elif name == "router":
        found = bench_router()
    elif name == "shaping":
        found = bench_shaping((2, 20, 200))
    elif name == "features":
        from .feature_benchmark import bench_features  # loads the tensor library

        found = bench_features(repeat)
    elif name == "optimum":
        from .optimum_benchmark import bench_optimum

        found = bench_optimum()
    else:
        found = bench_startup(repeat)
    print(json.dumps(found, indent=1) if as_json else _text(found))


def _text(found) -> str:
    if isinstance(found, list):
        return "\n".join("  ".join(f"{key} {_value(value)}" for key, value in row.items()) for row in found)
    lines = []
    for key, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{key}:", *("  " + line for line in _text(value).splitlines())]
        elif isinstance(value, list) and value and isinstance(value[0], float):
            lines.append(f"{key}: median {median(value):.5g}, all {', '.join(f'{v:.5g}' for v in value)}")
        else:
            lines.append(f"{key}: {_value(value)}")
    return "\n".join(lines)


def _value(value) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value)
