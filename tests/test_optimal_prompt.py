"""The optimal prompt size: against brute force, the paper's arithmetic, and what cannot be solved."""

import math
import time

import numpy as np
import pytest
from gnl.controller.optimal_prompt import PromptProblem, feasible_sizes, optimal_prompt
from gnl.experiments import optimum_benchmark
from gnl.topologies.errors import ScenarioError
from hypothesis import given, settings
from hypothesis import strategies as st


def exponential(a, b, c=0.0):
    return lambda x: np.clip(a * np.exp(-b * x) + c, 0, 1)


def wavy(a, b, c):
    """No curve that anybody measures: several peaks of the objective."""
    return lambda x: np.clip(a * np.exp(-b * x) * (1 + 0.5 * np.sin(c * x)), 0, 1)


def problem(**changes):
    """The paper's case: f'_sd = c_sg = 3.184 BPP and L = 4.776 BPP, a content a second."""
    given_ = dict(
        quality_loss=exponential(0.6, 1.5), prompt_size_low=0.14, prompt_size_high=4.776, content_size=4.776,
        c_sg=3.184, c_gd=4.776, max_flow=3.184, quality_weight=0.5,
    )  # fmt: skip
    return PromptProblem(**{**given_, **changes})


def brute_force(one, points=20001):
    """The best objective on a dense grid of sizes and on the two ends of lambda, by the problem's own words."""
    best = -math.inf
    for size in np.linspace(one.prompt_size_low, min(one.prompt_size_high, one.content_size), points):
        most = min(one.c_sg / size, one.c_gd / one.content_size, one.generation_rate / one.content_size)
        least = one.f_min / size
        if least > most * (1 + 1e-12):
            continue
        worth = 1 - one.quality_weight * float(one.quality_loss(np.array([size]))[0])
        best = max(best, *(rate * (one.content_size - size) * worth for rate in (least, most)))
    return best


CURVES = st.one_of(
    st.builds(exponential, st.floats(0.05, 1), st.floats(0.1, 8), st.floats(0, 0.2)),
    st.builds(wavy, st.floats(0.2, 1), st.floats(0.1, 2), st.floats(0.5, 12)),
)


@st.composite
def problems(draw):
    number = lambda low, high: draw(st.floats(low, high))  # noqa: E731
    low = number(0.02, 0.5)
    return problem(
        quality_loss=draw(CURVES), prompt_size_low=low, prompt_size_high=low + number(0.05, 6),
        content_size=number(0.6, 24), c_sg=number(0.1, 10), c_gd=number(0.1, 30), max_flow=number(0.1, 10),
        quality_weight=number(0, 5), f_min=draw(st.sampled_from((0.0, 0.01, 0.3))),
        generation_rate=draw(st.sampled_from((math.inf, 0.5, 5.0))),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(problems())
def test_it_is_as_good_as_brute_force_and_feasible(one):
    try:
        low, high = feasible_sizes(one)
    except ScenarioError as error:
        assert "infeasible" in str(error) and brute_force(one, 2001) == -math.inf
        return
    found = optimal_prompt(one)
    dense = brute_force(one, 4001)
    assert found.objective >= dense - 1e-9 * max(1, abs(dense))
    assert low <= found.prompt_size <= high
    flow = found.rate_per_s * found.prompt_size
    assert one.f_min * (1 - 1e-9) <= flow <= one.c_sg * (1 + 1e-9)
    assert found.rate_per_s * one.content_size <= min(one.c_gd, one.generation_rate) * (1 + 1e-9)
    worth = 1 - one.quality_weight * float(one.quality_loss(np.array([found.prompt_size]))[0])
    assert found.objective == pytest.approx(found.y_g * worth, abs=1e-12)


def test_ten_thousand_random_problems_equal_brute_force():
    """Vectorised brute force on 4001 sizes: never better by more than rounding, and no more than its step worse."""
    rng = np.random.default_rng(11)
    spent_s, checked = 0.0, 0
    for number in range(10_000):
        low, content = rng.uniform(0.02, 0.5), rng.uniform(0.6, 24)
        make, last = (exponential, rng.uniform(0, 0.2)) if number % 2 else (wavy, rng.uniform(0.5, 9))
        curve = make(rng.uniform(0.1, 1), rng.uniform(0.1, 6), last)
        one = problem(
            quality_loss=curve, prompt_size_low=low, prompt_size_high=rng.uniform(low, 8), content_size=content,
            c_sg=rng.uniform(0.1, 10), c_gd=rng.uniform(0.1, 30), max_flow=1.0, quality_weight=rng.uniform(0, 4),
        )  # fmt: skip
        start_s = time.process_time()
        found = optimal_prompt(one)
        spent_s += time.process_time() - start_s
        sizes = np.linspace(low, min(one.prompt_size_high, content), 4001)
        rate = np.minimum(one.c_sg / sizes, one.c_gd / content)
        gain = rate * (content - sizes) * np.maximum(0, 1 - one.quality_weight * curve(sizes))
        assert found.objective >= gain.max() - 1e-9 * max(1.0, gain.max())
        at_found = np.interp(found.prompt_size, sizes, gain)
        assert found.objective <= gain.max() + max(1e-6, 3 * np.abs(np.diff(gain)).max()), (number, at_found)
        checked += 1
    assert checked == 10_000
    print(f"{checked} problems in {spent_s:.1f} s of CPU time")


def test_the_papers_arithmetic():
    """A prompt at capacity gives G_flow 1.5, one of 1.592 BPP gives 2, if f'_sd = c_sg = 3.184 and L = 4.776 BPP."""
    for size, gain in ((3.184, 1.5), (1.592, 2.0)):
        found = optimal_prompt(problem(prompt_size_low=size, prompt_size_high=size))
        assert found.g_flow == pytest.approx(gain) and found.prompt_size == size


def test_no_weight_means_the_smallest_prompt_and_a_large_one_the_kink_or_more():
    assert optimal_prompt(problem(quality_weight=0)).at == "low"
    steep = problem(quality_loss=lambda x: np.clip(1 - x / 4.776, 0, 1), quality_weight=1.0)
    assert optimal_prompt(steep).prompt_size > 1.5
    sharp = problem(quality_loss=lambda x: np.where(x < 3.1, 1.0, 0.0), quality_weight=1.0)
    assert optimal_prompt(sharp).prompt_size == pytest.approx(3.1, abs=1e-4)


def test_where_every_picture_is_worth_less_than_nothing_nothing_is_sent():
    found = optimal_prompt(problem(quality_loss=lambda x: np.full_like(x, 0.9), quality_weight=2.0))
    assert (found.rate_per_s, found.y_g, found.g_flow, found.objective) == (0, 0, 1, 0)


def test_a_g_that_forwards_adds_nothing():
    assert optimal_prompt(problem(), generates=False).g_flow == 1


def test_bits_and_bpp_agree():
    bits = 65536
    curve = exponential(0.6, 1.5)
    small = optimal_prompt(problem())
    large = optimal_prompt(
        problem(
            quality_loss=lambda x: curve(x / bits), prompt_size_low=0.14 * bits, prompt_size_high=4.776 * bits,
            content_size=4.776 * bits, c_sg=3.184 * bits, c_gd=4.776 * bits, max_flow=3.184 * bits,
        )  # fmt: skip
    )
    assert large.prompt_size == pytest.approx(small.prompt_size * bits, rel=1e-6)
    assert large.g_flow == pytest.approx(small.g_flow) and large.rate_per_s == pytest.approx(small.rate_per_s)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"f_min": 4.0}, "c_sg = 3.184 is below f_min = 4"),
        ({"prompt_size_low": 5.0, "prompt_size_high": 6.0}, "no smaller than the content"),
        ({"f_min": 1.0, "generation_rate": 0.1}, "only prompts of 47.76 or more"),
    ],
)
def test_the_constraint_that_leaves_nothing_is_named(changes, says):
    with pytest.raises(ScenarioError, match=f"infeasible: .*{says}"):
        optimal_prompt(problem(**changes))


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"quality_weight": -1.0}, "quality_weight is -1.0: give a finite number 0 or more"),
        ({"quality_weight": math.nan}, "quality_weight is nan"),
        ({"c_sg": 0.0}, "c_sg is 0.0: give a finite number above 0"),
        ({"max_flow": math.inf}, "max_flow is inf"),
        ({"prompt_size_low": 2.0, "prompt_size_high": 1.0}, "the lower end first"),
    ],
)
def test_values_that_cannot_be_meant_are_named(changes, says):
    with pytest.raises(ScenarioError, match=says):
        problem(**changes)


def test_a_curve_without_a_value_is_refused():
    with pytest.raises(ScenarioError, match="no finite value at"):
        optimal_prompt(problem(quality_loss=lambda x: np.where(x > 1, np.nan, 0.5)))


def test_scipys_global_optimiser_finds_nothing_better(monkeypatch):
    monkeypatch.setattr(optimum_benchmark, "PROBLEMS", 60)
    monkeypatch.setattr(optimum_benchmark, "COMPARED", 30)
    found = optimum_benchmark.bench_optimum()
    assert found["scipy_better_by_at_most"] < 1e-7 and found["problems"] == 60
    assert found["speed_ratio_to_scipy"] == found["scipy_ms_per_problem"] / found["gnl_ms_per_problem"]
