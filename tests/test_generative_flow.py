import math

import numpy
import pytest
from gnl.controller.generative_flow import divergence, generative_gain, prompt_rate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

capacities = st.floats(1e5, 2e9)
bits = st.floats(100, 1e8)
rates = st.none() | st.floats(1e-3, 1e6)


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-9)


@given(capacities, capacities, bits, bits, rates)
@settings(deadline=None)
def test_eq_4_is_the_optimum_of_the_linear_program(c_sg, c_gd, prompt_bits, content_bits, rate):
    """Maximise f_gd - f_sg over both flows, with f_gd <= (L / L_p) f_sg and f_gd <= R_g."""
    assume(content_bits > 1.01 * prompt_bits)
    found = prompt_rate(c_sg, c_gd, prompt_bits, content_bits, rate)
    most = c_gd if rate is None else min(c_gd, rate * content_bits)
    ratio = content_bits / prompt_bits
    unit = min(most, c_sg * ratio)  # in units of the answer: the solver's tolerances are absolute
    program = linprog([1 / ratio, -1], A_ub=[[-1, 1]], b_ub=[0], bounds=[(0, c_sg * ratio / unit), (0, most / unit)])
    assert found.lambda_per_s * (content_bits - prompt_bits) == pytest.approx(-program.fun * unit, rel=1e-5)


@given(capacities, capacities, bits, bits, rates)
@settings(deadline=None)
def test_eq_4_is_the_largest_feasible_rate_of_a_grid(c_sg, c_gd, prompt_bits, content_bits, rate):
    found = prompt_rate(c_sg, c_gd, prompt_bits, content_bits, rate).lambda_per_s
    grid = numpy.concatenate([numpy.linspace(0, 2 * found, 4001), found * (1 + numpy.array([-1e-9, 1e-9]))])
    feasible = (grid * prompt_bits <= c_sg) & (grid * content_bits <= c_gd)
    if rate is not None:
        feasible &= grid <= rate
    assert found * (1 - 2e-9) <= grid[feasible].max() <= found * (1 + 1e-12)


@pytest.mark.parametrize(
    ("c_sg", "c_gd", "rate", "binds", "expected"),
    [
        (2e6, 20e6, None, ("s-g",), 2e6 / 250e3),
        (2e6, 10e6, None, ("g-d",), 10e6 / 1.5e6),
        (2e6, 20e6, 3, ("R_g",), 3),
        (2e6, 12e6, None, ("s-g", "g-d"), 8),
        (2e6, 12e6, 8, ("s-g", "g-d", "R_g"), 8),
        (20e6, 2e6, None, ("g-d",), 2e6 / 1.5e6),
    ],
)
def test_what_binds(c_sg, c_gd, rate, binds, expected):
    found = prompt_rate(c_sg, c_gd, 250e3, 1.5e6, rate)
    assert (found.lambda_per_s, found.binds) == (close(expected), binds)
    assert found.feasible and found.violated is None


def test_prompts_that_are_lost_leave_room_for_more():
    found = prompt_rate(2e6, 1e6, 1e3, 1e5, generation_rate_per_s=100, survival=0.5)
    assert found.limits_per_s == {"s-g": 2000, "g-d": 20, "R_g": 200}
    assert prompt_rate(2e6, 1e6, 1e3, 1e5, 100, survival=0).binds == ("s-g",)


def test_f_min_is_met_up_to_equality():
    assert prompt_rate(2e6, 20e6, 250e3, 1.5e6, f_min_bps=2e6).feasible
    found = prompt_rate(2e6, 1.5e6, 250e3, 1.5e6, f_min_bps=1e6)
    assert (found.feasible, found.lambda_per_s) == (False, 0)
    assert found.violated.startswith("f_min: ")
    assert "0.25 Mbit/s (bound by g-d), below f_min = 1 Mbit/s" in found.violated


def test_papers_figure_4():
    """Bits per pixel: L = 4.776 with c_sg = f'_sd = 3.184 makes a prompt at capacity gain 50%, 1.592 gains 100%."""
    for prompt, expected in ((3.184, 1.5), (1.592, 2.0)):
        gain = generative_gain(prompt, 4.776, plain_bps=0, max_flow_bps=3.184)
        assert gain.g_flow == close(expected)


@given(capacities, capacities, capacities, bits, bits, rates)
@settings(deadline=None)
def test_gains_in_closed_form(c_r, c_sg, c_gd, prompt_bits, content_bits, rate):
    """Against Eq. 2 to 4 written out; both gains agree exactly where s-g is filled and is no wider than g-d."""
    max_flow = c_r + min(c_sg, c_gd)
    found = prompt_rate(c_sg, c_gd, prompt_bits, content_bits, rate)
    f_sg, f_gd = found.lambda_per_s * prompt_bits, found.lambda_per_s * content_bits
    gain = generative_gain(f_sg, f_gd, c_r, max_flow)
    by_hand = min(c_sg / prompt_bits, c_gd / content_bits, math.inf if rate is None else rate)
    assert gain.y_g_bps == pytest.approx(by_hand * (content_bits - prompt_bits), rel=1e-6, abs=1e-3)
    assert gain.g_flow == close(1 + gain.y_g_bps / max_flow)
    assert gain.delivery_gain == close((c_r + f_gd) / max_flow)
    agree = math.isclose(f_sg, min(c_sg, c_gd), rel_tol=1e-6)
    if agree != (gain.difference is None):
        assert math.isclose(gain.g_flow, gain.delivery_gain, rel_tol=1e-5)


def test_a_full_g_d_link_gains_by_eq_3_but_delivers_nothing_more():
    """c_sg >= c_gd: replication already fills g-d, so d receives what it did before."""
    gain = generative_gain(f_sg_bps=1e6, f_gd_bps=10e6, plain_bps=5e6, max_flow_bps=15e6)
    assert gain.g_flow == close(1.6) and gain.delivery_gain == close(1)
    assert "receives 1 times f'_sd, not the 1.6 of Eq. 3" in gain.difference
    assert "10 Mbit/s of f'_sd that came by g gave way to 1 Mbit/s of prompts" in gain.difference


def test_prompts_larger_than_contents_diverge_below_zero():
    gain = generative_gain(f_sg_bps=2e6, f_gd_bps=1e6, plain_bps=10e6, max_flow_bps=12e6)
    assert gain.y_g_bps == close(-1e6) and gain.g_flow == gain.delivery_gain == close(11 / 12)
    assert gain.difference is None


def test_a_node_that_forwards_gains_nothing():
    gain = generative_gain(2e6, 2e6, 10e6, 12e6, generates=False)
    assert (gain.y_g_bps, gain.g_flow, gain.delivery_gain, gain.difference) == (0, 1, 1, None)


def test_divergence_is_zero_where_nothing_is_made():
    flows = {("s", "r"): 10, ("r", "d"): 10, ("s", "g"): 2, ("g", "d"): 20}
    assert {node: divergence(flows, node) for node in "srgd"} == {"s": 12, "r": 0, "g": 18, "d": -30}


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-1, 1), (math.nan, 1)])
def test_sizes_above_zero_only(sizes):
    with pytest.raises(ValueError, match="mean sizes are above 0"):
        prompt_rate(1, 1, *sizes)
