"""What emulation tests share: the diamond at chosen rates, a catalogue of made-up images, and programs run in nodes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gnl.controller.plan import Plan, plan_run
from gnl.controller.sizes import sizes_of_catalogue
from gnl.experiments.counters import Sampler
from gnl.experiments.phases import PhaseRunner, Traffic
from gnl.experiments.processes import Processes, Program, python_module
from gnl.experiments.run_state import RunState, new_run_id
from gnl.node_apps.catalogue import Catalogue, write_catalogue
from gnl.node_apps.codecs.content import pack
from gnl.node_apps.codecs.registry import describe, load_codec
from gnl.node_apps.protocol.header import PROMPT_PORT
from gnl.topologies.errors import RunError
from gnl.topologies.network import EmulatedNetwork
from gnl.topologies.spec import Scenario, scenario_from_dict


def diamond(links: dict[str, dict] | None = None, codec: str = "stub:900", **rest) -> Scenario:
    """Fig. 1 with c_sr = c_rd = 8, c_sg = 2, c_gd = 16 Mbit/s unless `links` says otherwise."""
    capacities = {"s-r": {"bw_mbit": 8}, "r-d": {"bw_mbit": 8}, "s-g": {"bw_mbit": 2}, "g-d": {"bw_mbit": 16}}
    for name, keys in (links or {}).items():
        capacities[name] = {**capacities[name], **keys}
    roles = {"s": "source", "r": "router", "g": "genai", "d": "sink"}
    return scenario_from_dict(
        {
            "name": "test",
            "nodes": {name: {"role": role} for name, role in roles.items()},
            "links": capacities,
            "content": {"codec": codec},
            **rest,
        }
    )


def made_up_catalogue(folder: Path, codec_name: str, count: int = 5, side_px: int = 64) -> Catalogue:
    """Smooth, different images, so that every codec takes them and no two can be confused."""
    codec, grid = load_codec(codec_name), np.linspace(0, 1, side_px)
    images = []
    for number in range(count):
        plane = 127 + 120 * np.sin(2 * np.pi * ((number + 1) * grid[:, None] + grid[None, :]))
        image = np.stack([plane, plane.T, np.full_like(plane, 40 * number)], axis=-1).astype(np.uint8)
        images.append((f"{number}.png", pack(image, "raw"), codec.encode(image)))
    return write_catalogue(folder, {"made": "up"}, images)


@dataclass
class Emulation:
    """A network that is up, and what is needed to send over it."""

    network: EmulatedNetwork
    processes: Processes
    sampler: Sampler
    catalogue: Catalogue
    plan: Plan
    runner: PhaseRunner
    decoder: Program | None
    out: Path

    def generate(self, duration_s: float = 1.0, meanwhile=None) -> Traffic:
        """Send plain images by r and prompts by g, as planned."""
        return self.runner.run(
            self.plan,
            self.plan.generate,
            duration_s,
            self.out / "generate",
            100,
            meanwhile or (lambda start_s, stop_s: None),
        )

    def replicate(self, duration_s: float = 1.0) -> Traffic:
        """Send plain images on both paths."""
        return self.runner.run(self.plan, self.plan.replicate, duration_s, self.out / "replicate", 100)

    def router_pid(self) -> int:
        """The GenAI router program's process."""
        return _pid_of("gnl.node_apps.genai_router")


@contextlib.contextmanager
def emulation(scenario: Scenario, folder: Path, decoder: bool = True, shaped: bool = True) -> Iterator[Emulation]:
    """Bring up a scenario, with a decoder service if asked for, and take all of it down."""
    codec = scenario.content.codec
    catalogue = made_up_catalogue(folder / "catalogue", codec)
    plan = plan_run(
        scenario, sizes_of_catalogue([vars(e) for e in catalogue.entries], describe(codec).generative, "test")
    )
    with machine_for_this_test() as state, Processes(state) as processes:
        service = None
        socket = state.directory / "decoder.sock"
        if decoder:
            command = python_module(
                "node_apps.decoder_service", "--socket", socket, "--codec", codec, "--device", "cpu"
            )
            service = Program(
                processes.start(command, "decoder", stdout=subprocess.PIPE, stderr=subprocess.PIPE), "decoder"
            )
        with EmulatedNetwork(scenario, PROMPT_PORT, shaped) as network, Sampler(network) as sampler:
            if service:
                service.wait_json(60)
            runner = PhaseRunner(network, processes, sampler, catalogue, socket, scenario.content.format)
            runner.install_paths(plan)
            yield Emulation(network, processes, sampler, catalogue, plan, runner, service, folder)


def machine_for_this_test(limit_s: float = 180.0) -> RunState:
    """The lock of all runs, once whoever has it is done."""
    deadline_s = time.monotonic() + limit_s
    while True:
        try:
            return RunState.acquire(new_run_id())
        except RunError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def wait_until(condition, limit_s: float = 10.0):
    """Poll until `condition()` is true and return what it gave; fail after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{condition} did not hold within {limit_s} s")


def _pid_of(module: str) -> int:
    found = subprocess.run(
        ["pgrep", "-f", f"^[^ ]*python[^ ]* -m {module}"], capture_output=True, text=True
    ).stdout.split()
    assert len(found) == 1, f"{len(found)} processes of {module}"
    return int(found[0])
