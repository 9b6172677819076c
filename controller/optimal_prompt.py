"""The optimal prompt size: the problem of Sec. III of the paper, solved over the whole interval of prompt sizes.

    maximise    y_g (1 - w delta(L_p))        y_g = lambda (L - L_p)
    over        L_p in an interval, lambda
    subject to  f_min <= lambda L_p <= c_sg,  lambda L <= min(c_gd, R_g)

At a given L_p the objective is linear in lambda: where 1 - w delta(L_p) is positive, Eq. 4 with R_g is best, elsewhere
the least that f_min asks for. What is left is one variable, in which the objective is in general not concave: it is
evaluated on a grid that holds its kinks, and the best places are searched more and more finely.

Sizes are in one unit (bits, or bits per pixel), flows in that unit per second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from gnl.topologies.errors import ScenarioError

GRID_POINTS = 1024
_PEAKS, _ZOOM_POINTS, _ZOOM_ROUNDS = 8, 33, 6
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class PromptProblem:
    """What the prompt size is chosen for.

    `quality_loss` is the curve delta(L_p) >= 0 of (n,) sizes; `prompt_size_low` and `prompt_size_high` are where it is
    defined, of which sizes above `content_size` (L) are left out. `max_flow` is f'_sd (Eq. 3), `generation_rate` R_g
    (inf: no limit), `quality_weight` w.
    """

    quality_loss: Callable[[np.ndarray], np.ndarray]
    prompt_size_low: float
    prompt_size_high: float
    content_size: float
    c_sg: float
    c_gd: float
    max_flow: float
    quality_weight: float
    f_min: float = 0.0
    generation_rate: float = math.inf

    def __post_init__(self) -> None:
        """ScenarioError names the first value that cannot be meant."""
        for one in fields(self)[1:]:
            value, from_zero = getattr(self, one.name), one.name in ("quality_weight", "f_min")
            if not (value >= 0 if from_zero else value > 0) or (math.isinf(value) and one.name not in _MAY_BE_INFINITE):
                accepted = "0 or more" if from_zero else "above 0"
                raise ScenarioError(f"{one.name} is {value!r}: give a finite number {accepted}")
        if self.prompt_size_low > self.prompt_size_high:
            raise ScenarioError(
                f"prompt sizes from {self.prompt_size_low:g} to {self.prompt_size_high:g}: give the lower end first"
            )

    @property
    def most_out(self) -> float:
        """The most that g can send: c_gd or R_g, whichever is less."""
        return min(self.c_gd, self.generation_rate)

    def rates(self, prompt_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and the most lambda at sizes (n,)."""
        return self.f_min / prompt_size, np.minimum(self.c_sg / prompt_size, self.most_out / self.content_size)

    def solved_for_rate(self, prompt_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best lambda at sizes (n,), and the objective with it."""
        least, most = self.rates(prompt_size)
        worth = 1.0 - self.quality_weight * self.quality_loss(prompt_size)
        rate = np.where(worth >= 0, most, least)
        return rate, rate * (self.content_size - prompt_size) * worth


_MAY_BE_INFINITE = ("c_gd", "generation_rate")


@dataclass(frozen=True)
class OptimalPrompt:
    """The solution: L_p, lambda, delta(L_p), the objective, y_g and G_flow (Eq. 2, 3).

    `at` says where it lies: "low" or "high", an end of the feasible sizes; "kink", where s-g and what g can send bind
    together; "between".
    """

    prompt_size: float
    rate_per_s: float
    quality_loss: float
    objective: float
    y_g: float
    g_flow: float
    at: str


def feasible_sizes(problem: PromptProblem) -> tuple[float, float]:
    """The interval of prompt sizes that meet all constraints; ScenarioError names the constraint that leaves none."""
    if problem.c_sg < problem.f_min:
        raise ScenarioError(
            f"infeasible: c_sg = {problem.c_sg:g} is below f_min = {problem.f_min:g}, so no prompts' flow reaches "
            "f_min; raise c_sg, or lower f_min"
        )
    low, high = problem.prompt_size_low, min(problem.prompt_size_high, problem.content_size)
    if low > high:
        raise ScenarioError(
            f"infeasible: prompts of {low:g} or more are no smaller than the content, L = {problem.content_size:g}; "
            "give smaller prompts, or larger contents"
        )
    least = problem.f_min * problem.content_size / problem.most_out
    if least > high:
        raise ScenarioError(
            f"infeasible: g sends at most {problem.most_out:g} (c_gd, R_g), so that only prompts of {least:g} or more "
            f"make a flow of f_min = {problem.f_min:g}, and the largest is {high:g}; lower f_min, or raise c_gd or R_g"
        )
    return max(low, least), high


def optimal_prompt(problem: PromptProblem, generates: bool = True) -> OptimalPrompt:
    """Solve the problem; `generates` is False for a g that only forwards, which adds no flow whatever its prompts.

    ScenarioError if no prompt size is feasible, or the curve has values that are no numbers.
    """
    low, high = feasible_sizes(problem)
    kink = problem.c_sg * problem.content_size / problem.most_out
    sizes = _grid(low, high, kink)
    values = problem.solved_for_rate(sizes)[1]
    if not np.isfinite(values).all():
        raise ScenarioError(f"the curve has no finite value at {sizes[~np.isfinite(values)][0]:g}: fit it again")
    best = _refined(problem, sizes, values)
    rate, objective = problem.solved_for_rate(np.array([best]))
    y_g = float(rate[0]) * (problem.content_size - best) if generates else 0.0
    loss = float(problem.quality_loss(np.array([best]))[0])
    at = next((name for name, size in (("low", low), ("high", high), ("kink", kink)) if _near(best, size)), "between")
    return OptimalPrompt(best, float(rate[0]), loss, float(objective[0]), y_g, 1 + y_g / problem.max_flow, at)


def _grid(low: float, high: float, kink: float) -> np.ndarray:
    """Sizes from `low` to `high`: half evenly, half by equal ratios, since curves are steep at small prompts."""
    half = GRID_POINTS // 2
    parts = [np.linspace(low, high, half), np.geomspace(low, high, half), [low, high]]
    if low < kink < high:
        parts.append([kink])
    return np.unique(np.clip(np.concatenate(parts), low, high))


def _refined(problem: PromptProblem, sizes: np.ndarray, values: np.ndarray) -> float:
    """The size of the highest objective: around the highest peaks of the grid, ever finer grids."""
    padded = np.concatenate(([-np.inf], values, [-np.inf]))
    peaks = np.flatnonzero((values >= padded[:-2]) & (values >= padded[2:]))
    peaks = peaks[np.argsort(values[peaks])[-_PEAKS:]]
    best, top = sizes[peaks], values[peaks]
    low, high = sizes[np.maximum(peaks - 1, 0)], sizes[np.minimum(peaks + 1, len(sizes) - 1)]
    share = np.linspace(0.0, 1.0, _ZOOM_POINTS)
    row = np.arange(len(peaks))
    for _ in range(_ZOOM_ROUNDS):
        finer = low[:, None] + (high - low)[:, None] * share
        found = problem.solved_for_rate(finer.ravel())[1].reshape(finer.shape)
        place = found.argmax(1)
        better = found[row, place] > top
        best = np.where(better, finer[row, place], best)
        top = np.maximum(top, found[row, place])
        low, high = finer[row, np.maximum(place - 1, 0)], finer[row, np.minimum(place + 1, _ZOOM_POINTS - 1)]
    return float(best[top.argmax()])


def _near(first: float, second: float) -> bool:
    return abs(first - second) <= _TOLERANCE * max(abs(first), abs(second))
