"""The plan of a run on the diamond: what s sends on which path in each phase, and the flow predicted on every link.

    replicate   plain images by r and by g, each path at its least capacity: together f'_sd
    generate    plain images by r at its least capacity, prompts by g at lambda* (Eq. 4 with R_g)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gnl.topologies.errors import ScenarioError
from gnl.topologies.spec import LinkSpec, Scenario

from .generative_flow import TOLERANCE, GenerativeGain, PromptRate, generative_gain, prompt_rate
from .max_flow import MaxFlow, max_flow
from .sizes import LEVELS, MeanSizes, Sizes


@dataclass(frozen=True)
class Hop:
    """One link of a path in the direction that packets take. `survival`: share of the packets that it delivers."""

    link: str
    source: str
    target: str
    capacity_bps: int
    survival: float


@dataclass(frozen=True)
class Diamond:
    """The roles of the four nodes, and the two paths from source to sink."""

    source: str
    router: str
    genai: str
    sink: str
    by_router: tuple[Hop, Hop]
    by_genai: tuple[Hop, Hop]

    @property
    def hops(self) -> tuple[Hop, ...]:
        return self.by_router + self.by_genai


@dataclass(frozen=True)
class Stream:
    """What s sends on one path. `kind`: "plain" or "prompt". `rate_bps`: wire bit/s on the first link. `paced`: s must
    hold that rate itself, since it does not fill the first link (else the link's back-pressure paces s)."""

    kind: str
    path: tuple[str, ...]
    rate_bps: float
    contents_per_s: float
    paced: bool


@dataclass(frozen=True)
class Phase:
    """One phase. `flows_bps[level][link]`: predicted flow towards the sink, as the counters of both ends see it.
    `contents_per_s`: contents that reach d whole."""

    name: str
    streams: tuple[Stream, Stream]
    flows_bps: dict[str, dict[str, float]]
    contents_per_s: float


@dataclass(frozen=True)
class Plan:
    """The whole plan. `rate` is Eq. 4 solved, None if the codec does not generate; `gains[level]` is Eq. 2 and 3.
    `notes`: sentences on what a reader would otherwise misread."""

    diamond: Diamond
    sizes: Sizes
    means: dict[str, MeanSizes]
    generation_rate_images_per_s: float | None
    max_flow: MaxFlow
    replicate: Phase
    generate: Phase
    rate: PromptRate | None
    gains: dict[str, GenerativeGain]
    notes: tuple[str, ...]

    @property
    def generates(self) -> bool:
        """Whether g makes contents in the generate phase (the codec generates, and f_min is met)."""
        return self.rate is not None and self.rate.feasible

    @property
    def min_cut(self) -> tuple[str, ...]:
        """Names of the links of the min-cut."""
        links = {(hop.source, hop.target): hop.link for hop in self.diamond.hops}
        return tuple(links[arc] for arc in self.max_flow.min_cut)

    @property
    def binds(self) -> tuple[str, ...]:
        """What holds lambda* down: names of links of the path by g, and "R_g"; empty where nothing is generated."""
        first, last = (hop.link for hop in self.diamond.by_genai)
        names = {"s-g": first, "g-d": last, "R_g": "R_g"}
        return tuple(names[symbol] for symbol in self.rate.binds) if self.rate and self.generates else ()

    def difference(self, level: str) -> str | None:
        """Why g_flow is not delivery_gain at a level, in one sentence; None where they agree."""
        sentence = self.gains[level].difference
        if sentence and level == "payload" and self.gains["wire"].difference is None:
            return f"{sentence} (on the wire they agree: prompts and contents spend unequal shares of it on headers)"
        return sentence

    def analytic(self, level: str) -> dict[str, Any]:
        """The `A` of `result.json` at a level: what the generate phase is predicted to measure, against f'_sd."""
        gain = self.gains[level]
        return {
            "max_flow_bps": gain.max_flow_bps,
            "flows_bps": dict(self.generate.flows_bps[level]),
            "y_g_bps": gain.y_g_bps,
            "g_flow": gain.g_flow,
            "delivery_gain": gain.delivery_gain,
            "contents_per_s": self.generate.contents_per_s,
        }


def plan_run(scenario: Scenario, sizes: Sizes, generation_rate_images_per_s: float | None = None) -> Plan:
    """Plan both phases. `generation_rate_images_per_s` is R_g / L as measured; None: the scenario's, else unlimited.

    Links that lose packets are taken at their mean: a link carries what was sent, its far end receives the surviving
    share, and a prompt or content counts only if all its packets survive; f'_sd is then what arrives on the last
    links. Raises `ScenarioError` for any shape but the diamond.
    """
    diamond = diamond_of(scenario)
    generation_rate = _generation_rate(scenario, generation_rate_images_per_s)
    survivals = _prompt_survivals(diamond.by_genai, sizes)
    means = {level: sizes.means(level, scenario.ip_version, survivals) for level in LEVELS}
    plain_by_router = _plain(diamond.by_router, sizes, means)
    replicate = _phase("replicate", plain_by_router, _plain(diamond.by_genai, sizes, means))
    if not all(replicate.flows_bps["wire"].values()):
        raise ScenarioError(f"{scenario.name} has a link that loses every packet: give loss_percent below 100")

    rate = None
    if sizes.generative:
        first, last = (hop.capacity_bps for hop in diamond.by_genai)
        wire = means["wire"]
        f_min_bps = scenario.f_min_mbit * 1e6
        survival = fmean(survivals)
        rate = prompt_rate(first, last, wire.prompt_bits, wire.content_bits, generation_rate, f_min_bps, survival)
    if rate is None:
        by_genai = _forwarded_prompts(diamond.by_genai, sizes, means)
    elif rate.feasible:
        by_genai = _generated(diamond.by_genai, sizes, means, survivals, rate.lambda_per_s)
    else:
        by_genai = _plain(diamond.by_genai, sizes, means)
    generate = _phase("generate", plain_by_router, by_genai)

    generates = rate is not None and rate.feasible
    gains = {level: _gain(diamond, replicate, generate, level, generates) for level in LEVELS}
    cut = max_flow({(hop.source, hop.target): hop.capacity_bps for hop in diamond.hops}, diamond.source, diamond.sink)
    return Plan(
        diamond=diamond,
        sizes=sizes,
        means=means,
        generation_rate_images_per_s=generation_rate,
        max_flow=cut,
        replicate=replicate,
        generate=generate,
        rate=rate,
        gains=gains,
        notes=tuple(_notes(diamond, means["wire"], rate, cut)),
    )


def _generation_rate(scenario: Scenario, measured_images_per_s: float | None) -> float | None:
    if measured_images_per_s is None:
        return scenario.generation_rate_images_per_s
    if not 0 < measured_images_per_s < math.inf:
        raise ScenarioError(f"the generation rate is {measured_images_per_s!r}: give images per second, above 0")
    return measured_images_per_s


def _notes(diamond: Diamond, wire: MeanSizes, rate: PromptRate | None, cut: MaxFlow) -> list[str]:
    notes = []
    if rate is None:
        notes.append("the codec does not generate: g forwards the prompts, so y_g = 0 and G_flow = 1")
    elif not rate.feasible:
        notes.append(f"infeasible: {rate.violated}; it replicates instead")
    elif wire.prompt_bits > wire.content_bits:
        notes.append(
            f"L_p = {wire.prompt_bits / 8:.0f} is above L = {wire.content_bits / 8:.0f} bytes, outside the paper's "
            "(1, L]: y_g is negative, replicating carries more"
        )
    lossy = [hop.link for hop in diamond.hops if hop.survival < 1]
    if lossy:
        notes.append(
            f"packets are lost on {', '.join(lossy)}: f'_sd is what reaches the links into {diamond.sink}, "
            f"of a min-cut of {cut.value_bps / 1e6:.6g} Mbit/s"
        )
    return notes


def diamond_of(scenario: Scenario) -> Diamond:
    """The diamond that a scenario is: one source, relay, GenAI node and sink, and the four links of Fig. 1."""
    source, router, genai, sink = (scenario.only(role).name for role in ("source", "router", "genai", "sink"))
    paths = [[(source, middle), (middle, sink)] for middle in (router, genai)]
    expected = {frozenset(ends) for path in paths for ends in path}
    for link in scenario.links:
        if frozenset((link.a, link.b)) not in expected:
            raise ScenarioError(
                f"{scenario.name} has a link {link.name}, which the diamond has not: only the links {source}-{router}, "
                f"{router}-{sink}, {source}-{genai}, {genai}-{sink} are planned for: remove it"
            )
    by_router, by_genai = (tuple(_hop(scenario.link(a, b), a, b) for a, b in path) for path in paths)
    return Diamond(source, router, genai, sink, by_router, by_genai)


def _hop(link: LinkSpec, source: str, target: str) -> Hop:
    return Hop(link.name, source, target, link.capacity_bps(source, target), 1 - link.loss_percent / 100)


@dataclass(frozen=True)
class _PathFlow:
    """A stream with the flow that it puts on each of its links, at each level, and the contents that arrive whole."""

    stream: Stream
    flows_bps: dict[str, dict[str, float]]
    arriving_per_s: float


def _plain(path: tuple[Hop, Hop], sizes: Sizes, means: dict[str, MeanSizes]) -> _PathFlow:
    """Plain images from end to end at the path's least capacity."""
    bits = {level: mean.plain_bits for level, mean in means.items()}
    return _end_to_end("plain", path, bits, sizes.plain_packets())


def _forwarded_prompts(path: tuple[Hop, Hop], sizes: Sizes, means: dict[str, MeanSizes]) -> _PathFlow:
    """Prompts that g only forwards, because its codec replicates."""
    bits = {level: mean.prompt_bits for level, mean in means.items()}
    return _end_to_end("prompt", path, bits, sizes.prompt_packets())


def _end_to_end(kind: str, path: tuple[Hop, Hop], bits: dict[str, float], packets: list[int]) -> _PathFlow:
    rate_bps = float(min(hop.capacity_bps for hop in path))
    per_s = rate_bps / bits["wire"]
    arriving = per_s * fmean((path[0].survival * path[1].survival) ** count for count in packets)
    flows = {
        level: {path[0].link: per_s * bits[level], path[1].link: per_s * bits[level] * path[0].survival}
        for level in LEVELS
    }
    return _PathFlow(_stream(kind, path, rate_bps, per_s), flows, arriving)


def _generated(
    path: tuple[Hop, Hop], sizes: Sizes, means: dict[str, MeanSizes], survivals: list[float], lambda_per_s: float
) -> _PathFlow:
    """Prompts at lambda* as far as g, contents from there on."""
    generated_per_s = lambda_per_s * fmean(survivals)
    flows = {
        level: {path[0].link: lambda_per_s * mean.prompt_bits, path[1].link: generated_per_s * mean.content_bits}
        for level, mean in means.items()
    }
    whole = fmean(s * path[1].survival**count for s, count in zip(survivals, sizes.content_packets()))
    stream = _stream("prompt", path, flows["wire"][path[0].link], lambda_per_s)
    return _PathFlow(stream, flows, lambda_per_s * whole)


def _stream(kind: str, path: tuple[Hop, Hop], rate_bps: float, contents_per_s: float) -> Stream:
    nodes = (path[0].source, path[0].target, path[1].target)
    return Stream(kind, nodes, rate_bps, contents_per_s, paced=rate_bps < path[0].capacity_bps * (1 - TOLERANCE))


def _prompt_survivals(path: tuple[Hop, Hop], sizes: Sizes) -> list[float]:
    return [path[0].survival**count for count in sizes.prompt_packets()]


def _phase(name: str, by_router: _PathFlow, by_genai: _PathFlow) -> Phase:
    flows = {level: {**by_router.flows_bps[level], **by_genai.flows_bps[level]} for level in LEVELS}
    arriving = by_router.arriving_per_s + by_genai.arriving_per_s
    return Phase(name, (by_router.stream, by_genai.stream), flows, arriving)


def _gain(diamond: Diamond, replicate: Phase, generate: Phase, level: str, generates: bool) -> GenerativeGain:
    """Eq. 2 and 3 on the predicted flows; where g makes no contents nothing diverges, whatever the links lose."""
    last_by_router, (first, last) = diamond.by_router[1].link, (hop.link for hop in diamond.by_genai)
    flows, before = generate.flows_bps[level], replicate.flows_bps[level]
    return generative_gain(
        f_sg_bps=flows[first],
        f_gd_bps=flows[last],
        max_flow_bps=before[last_by_router] + before[last],
        plain_bps=flows[last_by_router],
        generates=generates,
    )
