"""Eq. 1 to 4 of the paper: divergence, the prompt rate lambda*, and the gain of a generative node g between s and d.

        prompts, lambda L_p <= c_sg        contents, lambda L <= c_gd
    s --------------------------------> g --------------------------> d        y_g = lambda (L - L_p)

A real g also has a generation rate R_g, so Eq. 4 reads lambda* = min(f_sg / L_p, f_gd / L, R_g / L).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 1e-9


@dataclass(frozen=True)
class PromptRate:
    """Eq. 4 solved. `limits_per_s`: the rate that each of "s-g", "g-d" and "R_g" would allow alone (inf: no limit);
    `binds`: those that the least one comes from. `violated`: why g cannot generate at all, None if it can."""

    lambda_per_s: float
    binds: tuple[str, ...]
    limits_per_s: dict[str, float]
    violated: str | None

    @property
    def feasible(self) -> bool:
        return self.violated is None


@dataclass(frozen=True)
class GenerativeGain:
    """What g adds, at one level. `difference` says in one sentence why `g_flow` (Eq. 3) is not `delivery_gain`, and is
    None where the two agree."""

    f_sg_bps: float
    f_gd_bps: float
    max_flow_bps: float
    y_g_bps: float
    g_flow: float
    delivery_gain: float
    difference: str | None


def divergence(flows_bps: Mapping[tuple[str, str], float], node: str) -> float:
    """Flow out of a node minus flow into it: 0 where it replicates (Eq. 1), y_g where it generates (Eq. 2)."""
    leaving = sum(flow for (a, _), flow in flows_bps.items() if a == node)
    return leaving - sum(flow for (_, b), flow in flows_bps.items() if b == node)


def prompt_rate(
    c_sg_bps: float,
    c_gd_bps: float,
    prompt_bits: float,
    content_bits: float,
    generation_rate_per_s: float | None = None,
    f_min_bps: float = 0.0,
    survival: float = 1.0,
) -> PromptRate:
    """Return lambda*, prompts per second from s (Eq. 4 with R_g), and what binds it.

    `prompt_bits`, `content_bits`: mean L_p and L, of contents that are generated. `generation_rate_per_s`: R_g / L in
    contents/s, None for no limit. `survival`: share of the prompts that reach g whole, so that g makes lambda times
    `survival` contents per second. Infeasible, with a rate of 0, where lambda* L_p < f_min.
    """
    for name, value in (("prompt_bits", prompt_bits), ("content_bits", content_bits)):
        if not value > 0:
            raise ValueError(f"{name} is {value!r}: mean sizes are above 0")
    limits = {
        "s-g": c_sg_bps / prompt_bits,
        "g-d": _over(c_gd_bps, content_bits * survival),
        "R_g": math.inf if generation_rate_per_s is None else _over(generation_rate_per_s, survival),
    }
    rate = min(limits.values())
    binds = tuple(name for name, limit in limits.items() if limit <= rate * (1 + TOLERANCE))
    violated = None
    if rate * prompt_bits < f_min_bps * (1 - TOLERANCE):
        violated = (
            f"f_min: the prompts' flow lambda* L_p is {rate * prompt_bits / 1e6:.6g} Mbit/s (bound by "
            f"{' and '.join(binds)}), below f_min = {f_min_bps / 1e6:.6g} Mbit/s, so g generates nothing"
        )
        rate = 0.0
    return PromptRate(rate, binds, limits, violated)


def generative_gain(
    f_sg_bps: float, f_gd_bps: float, plain_bps: float, max_flow_bps: float, generates: bool = True
) -> GenerativeGain:
    """Return y_g (Eq. 2), G_flow (Eq. 3) and the delivery gain, at the level (wire or payload) of the arguments.

    `plain_bps`: flow into d on other paths than g's, which is also its part of `max_flow_bps` (f'_sd). `generates`:
    False for a g that only forwards, which diverges by nothing (Eq. 1).
    """
    y_g = f_gd_bps - f_sg_bps if generates else 0.0
    g_flow, delivery_gain = 1 + y_g / max_flow_bps, (plain_bps + f_gd_bps) / max_flow_bps
    difference = None
    if abs(g_flow - delivery_gain) > TOLERANCE * max(g_flow, delivery_gain):
        replaced, prompts = max_flow_bps - plain_bps, f_sg_bps if generates else f_gd_bps
        difference = (
            f"d receives {delivery_gain:.5g} times f'_sd, not the {g_flow:.5g} of Eq. 3: that adds y_g to the whole of "
            f"f'_sd, but the {replaced / 1e6:.4g} Mbit/s of f'_sd that came by g gave way to "
            f"{prompts / 1e6:.4g} Mbit/s of prompts"
        )
    return GenerativeGain(f_sg_bps, f_gd_bps, max_flow_bps, y_g, g_flow, delivery_gain, difference)


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.inf
