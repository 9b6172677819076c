"""The repeats of a run on a network that is up: replicate, measure R_g, plan, generate, evaluate."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from gnl.controller.plan import Plan, plan_run
from gnl.controller.sizes import LEVELS, Sizes
from gnl.node_apps.catalogue import Catalogue
from gnl.node_apps.decoder_client import DecoderClient, GenerationRate
from gnl.topologies.errors import RunError
from gnl.topologies.network import EmulatedNetwork
from gnl.topologies.spec import Scenario

from .counters import Sampler, Series
from .measure import Losses, contents_rate, flows_of, image_counts, link_losses, measured_figures, read_losses
from .phases import PhaseRunner, Traffic
from .processes import Processes, decoder_socket
from .progress import Progress
from .validity import reasons_against
from .windows import MIN_WINDOWS, SKIP_S, WINDOW_S, Window, cut_windows, window_length_s

# One window more than is needed: a busy moment of the machine costs a window, not the run.
REPLICATE_S = (MIN_WINDOWS + 1) * WINDOW_S
MAX_GENERATION_RATE_S, MIN_GENERATION_RATE_S = 5.0, 3.0
# A queue in front of a server of exactly its rate only grows: what is planned is a little below what was measured.
GENERATION_HEADROOM = 0.985
# Prompts given to the decoder at once when each is decoded once: its queue and its unread answers are bounded.
WEIGH_TOGETHER = 16


@dataclass(frozen=True)
class RunOptions:
    """How a scenario is run. `duration_s` is what is measured of the generate phase, in each repeat; the replicate
    phase and the measurement of R_g take as long, but not longer than they need."""

    out: Path
    duration_s: float = 20.0
    repeat: int = 1
    seed: int = 0
    device: str = "auto"
    pcap: bool = False
    quiet: bool = False
    command: str = ""

    @property
    def replicate_s(self) -> float:
        return min(REPLICATE_S, self.duration_s)

    @property
    def generation_rate_s(self) -> float:
        return min(MAX_GENERATION_RATE_S, max(MIN_GENERATION_RATE_S, self.duration_s / 2))


@dataclass
class Repeat:
    """One pass through both phases: windows, figures by level, and why it does not count, if it does not.

    `flows_bps[phase][level][link]` was measured at the far end of a link. `rate_s`: how long R_g was measured after the
    replicate phase's windows, while its traffic went on.
    """

    replicate: Traffic
    generate: Traffic
    plan: Plan
    windows: dict[str, list[Window]]
    flows_bps: dict[str, dict[str, dict[str, float]]]
    measured: dict[str, dict]
    losses: dict
    images: dict[str, int]
    rate_s: float
    reasons: list[str] = field(default_factory=list)

    @property
    def phases(self) -> tuple[Traffic, Traffic]:
        """Both phases, in the order in which they were run."""
        return self.replicate, self.generate


class Conductor:
    """Leads the phases of every repeat on a network that is up."""

    def __init__(
        self,
        scenario: Scenario,
        options: RunOptions,
        network: EmulatedNetwork,
        processes: Processes,
        sampler: Sampler,
        catalogue: Catalogue,
        sizes: Sizes,
        progress: Progress,
    ) -> None:
        self.scenario, self.options, self.network, self.sampler = scenario, options, network, sampler
        self.catalogue, self.progress = catalogue, progress
        self.decoder_socket = decoder_socket(processes)
        self.sizes, self.generative = sizes, sizes.generative
        self.runner = PhaseRunner(network, processes, sampler, catalogue, self.decoder_socket, scenario.content.format)
        self.generation_rate: GenerationRate | None = None

    def run_all(self) -> tuple[list[Repeat], GenerationRate | None, dict]:
        draft = plan_run(self.scenario, self.sizes)
        self.runner.install_paths(draft)
        rate_s = self.options.generation_rate_s if self.generative else 0.0
        each_s = self.options.replicate_s + self.options.duration_s + rate_s + 2 * SKIP_S + 4
        self.progress.expect(self.options.repeat * each_s)
        repeats = [self._repeat(draft, index) for index in range(self.options.repeat)]
        stats = {}
        if self.generative:
            with DecoderClient(self.decoder_socket) as client:
                stats = client.stats()
        return repeats, self.generation_rate, stats

    def _repeat(self, draft: Plan, index: int) -> Repeat:
        name = f" {index + 1}/{self.options.repeat}" if self.options.repeat > 1 else ""
        received = self.options.out / "received"
        before = read_losses(self.network, self.sampler)
        # In every repeat anew: on a shared machine the rate of one minute is not that of the next.
        extra_s = self.options.generation_rate_s if self.generative else 0.0
        replicate = self.runner.run(
            draft,
            draft.replicate,
            self.options.replicate_s + extra_s,
            received / f"replicate-{index}",
            0,
            lambda start_s, stop_s: self._replicating(f"replicate{name}", stop_s, extra_s),
        )
        replicate = replace(replicate, stop_s=replicate.stop_s - extra_s)
        plan = plan_run(self.scenario, self.sizes, self._planned_images_per_s())
        if plan.generates:
            self.progress.note(f"plan: {plan.rate.lambda_per_s:.2f} prompts/s, held down by {', '.join(plan.binds)}")
        generate = self.runner.run(
            plan,
            plan.generate,
            self.options.duration_s,
            received / f"generate-{index}",
            len(self.catalogue),
            lambda start_s, stop_s: self.progress.wait_until(f"generate{name}", stop_s),
        )
        self.progress.note("all arrived; evaluating")
        return self._evaluate(plan, replicate, generate, before, extra_s)

    def _replicating(self, label: str, stop_s: float, extra_s: float) -> None:
        """Wait out the measured part; then measure R_g while the network goes on carrying its load."""
        self.progress.wait_until(label, stop_s - extra_s)
        if extra_s:
            prompts = [self.catalogue.prompt(index) for index in range(len(self.catalogue))]
            with DecoderClient(self.decoder_socket) as client:
                if self.generation_rate is None:
                    self.sizes = self._with_generated_sizes(client, prompts)
                self.generation_rate = client.measure_generation_rate(
                    prompts, self.scenario.content.format, max(2.0, stop_s - time.monotonic() - 0.5)
                )
            rate = self.generation_rate
            self.progress.note(
                f"R_g under load: {rate.images_per_s:.1f} images/s (worst second {rate.images_per_s_min:.1f})"
            )

    def _with_generated_sizes(self, client: DecoderClient, prompts) -> Sizes:
        """The same sizes with L as g really makes it: every prompt is decoded once, and its content weighed."""
        sizes = list(self.sizes.content_bytes)
        for number, prompt in enumerate(prompts[:WEIGH_TOGETHER]):
            client.submit(number, prompt, self.scenario.content.format)
        for number in range(len(prompts)):
            answer = client.receive(60.0)
            if number + WEIGH_TOGETHER < len(prompts):
                client.submit(number + WEIGH_TOGETHER, prompts[number + WEIGH_TOGETHER], self.scenario.content.format)
            if answer is None:
                raise RunError("no answer from the decoder in 60 s: use a smaller content.size_px, or a faster codec")
            if answer.body is None:
                name = self.catalogue.entries[answer.request_id].name
                raise RunError(f"the prompt of {name} does not decode: {answer.message}")
            sizes[answer.request_id] = len(answer.body)
        return replace(self.sizes, content_bytes=tuple(sizes))

    def _planned_images_per_s(self) -> float | None:
        """R_g / L that is planned for: a little below what was measured under load; None: what the scenario says."""
        if self.scenario.generation_rate_images_per_s is not None or self.generation_rate is None:
            return None
        return GENERATION_HEADROOM * self.generation_rate.images_per_s

    def _evaluate(self, plan: Plan, replicate: Traffic, generate: Traffic, before: Losses, rate_s: float) -> Repeat:
        series, version = Series(self.sampler.samples), self.network.plan.version
        windows, flows = {}, {}
        for traffic in (replicate, generate):
            length_s = window_length_s(self._cycle_s(traffic), traffic.stop_s - traffic.measured_from_s)
            windows[traffic.phase.name] = cut_windows(series, traffic.measured_from_s, traffic.stop_s, length_s)
            flows[traffic.phase.name] = flows_of(plan, series, windows[traffic.phase.name], version)
        per_s = contents_rate(generate, windows["generate"])
        measured = {
            level: measured_figures(plan, flows["replicate"][level], flows["generate"][level], per_s)
            for level in LEVELS
        }
        losses = link_losses(self.network, before, read_losses(self.network, self.sampler))
        images = image_counts(plan, generate)
        repeat = Repeat(replicate, generate, plan, windows, flows, measured, losses, images, rate_s)
        repeat.reasons = reasons_against(repeat, self.scenario, self.catalogue, series)
        return repeat

    def _cycle_s(self, traffic: Traffic) -> float:
        """Time in which every prompt is sent once. What leaves g follows the images; all else is even in bits."""
        rates = [stream.contents_per_s for stream in traffic.phase.streams if stream.kind == "prompt"]
        return len(self.catalogue) / rates[0] if rates else WINDOW_S
