"""`gnl bench optimum`: the optimal prompt size of random problems, beside SciPy's global optimiser on the same ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gnl.controller.optimal_prompt import PromptProblem, optimal_prompt

PROBLEMS, COMPARED = 10_000, 100


def bench_optimum() -> dict[str, Any]:
    """CPU milliseconds a problem of both, their ratio, and by which share of the objective SciPy was ever better."""
    problems = [_problem(np.random.default_rng(number)) for number in range(PROBLEMS)]
    found, ours_s = _timed(lambda one: optimal_prompt(one).objective, problems)
    others, scipy_s = _timed(_by_scipy, problems[:COMPARED])
    ours_ms, scipy_ms = 1e3 * ours_s / PROBLEMS, 1e3 * scipy_s / COMPARED
    behind = [(other - one) / max(abs(other), 1e-9) for one, other in zip(found, others)]
    return {
        "problems": PROBLEMS,
        "gnl_cpu_s": ours_s,
        "gnl_ms_per_problem": ours_ms,
        "scipy_problems": COMPARED,
        "scipy_ms_per_problem": scipy_ms,
        "speed_ratio_to_scipy": scipy_ms / ours_ms,
        "scipy_better_by_at_most": max(0.0, *behind),
        "gnl_better_by_more_than_1e-6": sum(share < -1e-6 for share in behind),
    }


def _timed(solve, problems) -> tuple[list[float], float]:
    start_s = time.process_time()
    return [solve(one) for one in problems], time.process_time() - start_s


def _problem(rng: np.random.Generator) -> PromptProblem:
    """One with a curve as measured ones are, or with several peaks."""
    low, content = rng.uniform(0.02, 0.5), rng.uniform(0.6, 24)
    height, slope, waves = rng.uniform(0.1, 1), rng.uniform(0.1, 6), rng.uniform(0.5, 9) * rng.integers(0, 2)

    def curve(sizes: np.ndarray) -> np.ndarray:
        return np.clip(height * np.exp(-slope * sizes) * (1 + 0.5 * np.sin(waves * sizes)), 0, 1)

    return PromptProblem(
        quality_loss=curve, prompt_size_low=low, prompt_size_high=rng.uniform(low, 8), content_size=content,
        c_sg=rng.uniform(0.1, 10), c_gd=rng.uniform(0.1, 30), max_flow=1.0, quality_weight=rng.uniform(0, 4),
    )  # fmt: skip


def _by_scipy(one: PromptProblem) -> float:
    """The objective that differential evolution reaches, over the sizes alone: Eq. 4 gives lambda."""
    from scipy.optimize import differential_evolution

    bounds = [(one.prompt_size_low, min(one.prompt_size_high, one.content_size))]
    found = differential_evolution(lambda size: -one.solved_for_rate(size)[1][0], bounds, rng=0)
    return float(-found.fun)
