"""A run: calibrate every link, replicate (the measured f'_sd), generate (the plan), and compare.

images -> catalogue          decoder service starts        network up, links calibrated
                 \\________________ R_g measured under load, plan made ________________/
replicate: plain images on both paths        generate: plain by r, prompts by g        result.json, report.html
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from gnl.controller.plan import Plan, diamond_of, plan_run
from gnl.controller.sizes import sizes_of_catalogue
from gnl.node_apps.catalogue import Catalogue
from gnl.node_apps.codecs.registry import decodes_slowly, describe
from gnl.node_apps.decoder_client import GenerationRate
from gnl.node_apps.protocol.header import PROMPT_PORT
from gnl.topologies.errors import CodecError, GnlError, RunError
from gnl.topologies.impairment import require_netem
from gnl.topologies.network import EmulatedNetwork, require_mininet
from gnl.topologies.spec import ContentSpec, Scenario

from .calibration import calibrate, require_calibrated, require_iperf3
from .counters import Sampler, Series
from .encoding import prepare_catalogue
from .images import LoadedImage
from .out_folder import prepare_out
from .processes import DECODER_NICE, Processes, Program, decoder_socket, python_module
from .progress import Progress
from .repeats import Conductor, Repeat, RunOptions
from .run_state import RunState, new_run_id

DECODER_START_LIMIT_S = 120.0


@dataclass
class RunRecord:
    """All that a run learned; `result` turns it into `result.json`."""

    run_id: str
    scenario: Scenario
    options: RunOptions
    started: str
    catalogue: Catalogue
    images: list[LoadedImage]
    skipped: list[tuple[str, str]]
    calibration: list[dict]
    decoder: dict
    generation_rate: GenerationRate | None
    plan: Plan
    repeats: list[Repeat]
    series: Series
    decoder_stats: dict


def run(scenario: Scenario, options: RunOptions) -> RunRecord:
    """Run a scenario once, all repeats, and take everything down again whatever happens.

    Raises a `GnlError` where it cannot go on; then nothing of the network is left and no result is written.
    """
    _require_possible(scenario, options)
    progress, run_id = Progress(options.quiet), new_run_id()
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with RunState.acquire(run_id, options.out) as state, Processes(state) as processes:
        prepare_out(options.out)
        catalogue, images, skipped = _catalogue(scenario, options, progress)
        generative = describe(scenario.content.codec).generative
        sizes = sizes_of_catalogue([vars(entry) for entry in catalogue.entries], generative, "this run's catalogue")
        plan_run(scenario, sizes)  # what cannot be planned is refused before anything is built
        decoder = start_decoder(processes, scenario, options) if generative else None
        state.record_nodes(node.name for node in scenario.nodes)
        with EmulatedNetwork(scenario, PROMPT_PORT) as network, Sampler(network) as sampler:
            for node in scenario.nodes:
                state.record_process(network.pid(node.name), f"shell of node {node.name}")
            rows = _calibrated(network, sampler, processes, progress)
            ready = wait_decoder(decoder) if decoder else {}
            conductor = Conductor(scenario, options, network, processes, sampler, catalogue, sizes, progress)
            with _captures(network, processes, options), _blaming(decoder):
                repeats, generation_rate, stats = conductor.run_all()
            series = Series(sampler.samples)
    return RunRecord(
        run_id,
        scenario,
        options,
        started,
        catalogue,
        images,
        skipped,
        rows,
        ready,
        generation_rate,
        repeats[0].plan,
        repeats,
        series,
        stats,
    )


def _require_possible(scenario: Scenario, options: RunOptions) -> None:
    """Refuse what this machine or this version cannot do, before anything is built or removed."""
    require_mininet()
    require_iperf3()
    require_netem(scenario.links)
    diamond_of(scenario)
    require_fast_enough(scenario.content)
    if options.pcap and shutil.which("tcpdump") is None:
        raise RunError("tcpdump is not on this machine: apt-get install tcpdump, or leave out --pcap")


def require_fast_enough(content: ContentSpec) -> None:
    """Refuse a codec that is unknown, or too slow for a router unless the scenario insists."""
    if decodes_slowly(content.codec) and not content.force_slow_codec:
        raise CodecError(
            f"codec {content.codec} decodes pixel after pixel, seconds an image, too slow for a router: choose one "
            "that does not, as compressai:mbt2018-mean:Q, or insist with --set content.force_slow_codec=true"
        )
    describe(content.codec)


def _catalogue(scenario: Scenario, options: RunOptions, progress: Progress):
    catalogue, images, skipped = prepare_catalogue(scenario.content, options.device, options.seed, progress.note)
    for name, reason in skipped:
        progress.note(f"skipped {name}: {reason}")
    mean_bytes = sum(entry.prompt_bytes for entry in catalogue.entries) / len(catalogue)
    progress.note(f"{len(catalogue)} images, prompts of {mean_bytes:.0f} bytes on average")
    return catalogue, images, skipped


def _calibrated(network: EmulatedNetwork, sampler: Sampler, processes: Processes, progress: Progress) -> list[dict]:
    progress.note("network up; calibrating every link with iperf3")
    rows = calibrate(network, sampler, processes)
    require_calibrated(rows)
    worst = max(rows, key=lambda row: abs(row["rel_error"]))
    progress.note(f"links calibrated: worst {worst['direction']} {100 * worst['rel_error']:+.3f}%")
    return rows


def start_decoder(processes: Processes, scenario: Scenario, options: RunOptions) -> Program:
    """Start the machine's decoder service with the scenario's codec; it loads while the network is calibrated."""
    command = python_module(
        "node_apps.decoder_service",
        "--socket",
        decoder_socket(processes),
        "--codec",
        scenario.content.codec,
        "--device",
        options.device,
    )
    process = processes.start(command, "decoder service", DECODER_NICE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return Program(process, "decoder service")


def wait_decoder(decoder: Program) -> dict:
    """Wait until the service accepts prompts and return what it says of itself."""
    return decoder.wait_json(DECODER_START_LIMIT_S)


@contextlib.contextmanager
def _blaming(decoder: Program | None) -> Iterator[None]:
    """Where a dead decoder service made a run fail, its own complaint says more than that nobody answers."""
    try:
        yield
    except GnlError:
        if decoder:
            decoder.require_alive()
        raise


@contextlib.contextmanager
def _captures(network: EmulatedNetwork, processes: Processes, options: RunOptions):
    """Capture the head of every packet at one end of each link while the phases run, if asked for."""
    started = []
    if options.pcap:
        folder = options.out / "pcap"
        folder.mkdir(exist_ok=True)
        for link in network.scenario.links:
            command = network.inside(
                link.b,
                "tcpdump",
                "-i",
                f"{link.b}-{link.a}",
                "-s",
                "128",
                "-U",
                "-B",
                "8192",
                "-Z",
                "root",
                "-w",
                str(folder / f"{link.name}.pcap"),
            )
            started.append(
                processes.start(
                    command, f"tcpdump on {link.name}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        time.sleep(0.3)
    try:
        yield
        if any(process.poll() is not None for process in started):
            raise RunError(
                f"tcpdump ended early, so that captures in {options.out}/pcap are not whole: is the disk full?"
            )
    finally:
        processes.stop(started)
