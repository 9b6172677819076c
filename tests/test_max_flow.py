import random

import gnl.controller.max_flow as module
import networkx
import pytest
from gnl.controller.max_flow import SCIPY_ARCS, max_flow
from gnl.topologies.errors import ScenarioError
from hypothesis import given, settings
from hypothesis import strategies as st

SOLVERS = ("dinic", "scipy")
FIG_1 = {("s", "r"): 10_000_000, ("r", "d"): 10_000_000, ("s", "g"): 2_000_000, ("g", "d"): 20_000_000}
capacities_bps = st.one_of(st.integers(0, 9), st.integers(0, 2 * 10**9), st.just(2**31 - 1), st.integers(0, 10**13))
pairs = [(a, b) for a in range(5) for b in range(5) if a != b]
dense = st.lists(st.integers(0, 5) | capacities_bps, min_size=len(pairs), max_size=len(pairs))
graphs = dense.map(lambda capacities: dict(zip(pairs, capacities)))
sparse = st.dictionaries(st.sampled_from(pairs), st.integers(1, 5), min_size=5)


def check(capacities, source, sink, solver):
    """What every max-flow must satisfy, and the value that networkx finds."""
    result = max_flow(capacities, source, sink, solver)
    graph = networkx.DiGraph()
    graph.add_edges_from((a, b, {"capacity": capacity}) for (a, b), capacity in capacities.items())
    assert result.value_bps == networkx.maximum_flow_value(graph, source, sink)

    assert result.flows_bps.keys() == capacities.keys()
    balance = dict.fromkeys(graph.nodes, 0)
    for (a, b), flow in result.flows_bps.items():
        assert isinstance(flow, int) and 0 <= flow <= capacities[a, b]
        assert not (flow and result.flows_bps.get((b, a)))
        balance[a] -= flow
        balance[b] += flow
    assert balance.pop(sink) == result.value_bps
    assert balance.pop(source) == -result.value_bps
    assert not any(balance.values())

    assert source in result.source_side and sink not in result.source_side
    crossing = {(a, b) for a, b in capacities if a in result.source_side and b not in result.source_side}
    assert set(result.min_cut) == crossing
    assert sum(capacities[arc] for arc in result.min_cut) == result.value_bps
    assert all(result.flows_bps[arc] == capacities[arc] for arc in result.min_cut)
    return result


@pytest.mark.parametrize("solver", SOLVERS)
@given(graph=graphs | sparse)
@settings(deadline=None, max_examples=200)
def test_small_graphs(solver, graph):
    check({(0, 1): 0, (3, 4): 0, **graph}, 0, 4, solver)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_beyond_32_bits(solver, seed):
    rng = random.Random(seed)
    nodes = 120
    arcs = ((rng.randrange(nodes), rng.randrange(nodes)) for _ in range(900))
    capacities = {(a, b): rng.randrange(2 * 10**9) for a, b in arcs if a != b}
    capacities |= {(0, node): 2 * 10**9 for node in range(1, 20)} | {(node, 119): 2 * 10**9 for node in range(90, 119)}
    assert check(capacities, 0, 119, solver).value_bps > 2**32


@pytest.mark.parametrize("solver", SOLVERS)
def test_grid(solver):
    rng = random.Random(1)
    capacities = {}
    for x in range(14):
        for y in range(14):
            for u, v in ((x + 1, y), (x, y + 1), (x - 1, y), (x, y - 1)):
                if 0 <= u < 14 and 0 <= v < 14:
                    capacities[(x, y), (u, v)] = rng.randrange(1, 2 * 10**9)
    check(capacities, (0, 0), (13, 13), solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_fig_1(solver):
    result = check(FIG_1, "s", "d", solver)
    assert (result.value_bps, result.min_cut) == (12_000_000, (("s", "r"), ("s", "g")))


def test_a_cut_that_is_one_bit_off_is_seen():
    wide, narrow = 2_000_000_000, 1_999_999_999
    capacities = {("s", "r"): narrow, ("r", "d"): wide, ("s", "g"): wide, ("g", "d"): narrow}
    for solver in SOLVERS:
        assert max_flow(capacities, "s", "d", solver).min_cut == (("s", "r"), ("g", "d"))


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_augmenting_path_may_have_to_go_back(solver):
    capacities = {("s", "a"): 1, ("s", "b"): 1, ("a", "b"): 1, ("a", "d"): 1, ("b", "d"): 1}
    assert check(capacities, "s", "d", solver).value_bps == 2


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_source_side_takes_in_whom_flow_could_be_sent_back_to(solver):
    """s-a is full, yet a belongs to the source side: b, reached by c, could send a's flow back."""
    capacities = {("s", "a"): 1, ("a", "b"): 1, ("s", "c"): 5, ("c", "b"): 5, ("b", "d"): 3}
    assert check(capacities, "s", "d", solver).min_cut == (("b", "d"),)


WIDE = [{("s", "r"): 2 * 10**9, ("r", "d"): 2 * 10**9}, {("s", "r"): 7, ("r", "d"): 10**13}]


@pytest.mark.parametrize("capacities", WIDE)
def test_scipy_itself_solves_what_has_more_than_32_bits(capacities, monkeypatch):
    monkeypatch.setattr(module, "_by_dinic", None)
    both = {**capacities, ("s", "g"): 10**9 + 1, ("g", "d"): 10**9 + 7, ("d", "g"): 10**13}
    value = check(both, "s", "d", "scipy").value_bps
    assert value == capacities["s", "r"] + 10**9 + 1


@pytest.mark.parametrize(("arcs", "unused"), [(SCIPY_ARCS - 1, "_by_scipy"), (SCIPY_ARCS, "_by_dinic")])
def test_the_number_of_arcs_picks_the_solver(arcs, unused, monkeypatch):
    monkeypatch.setattr(module, unused, None)
    assert max_flow({(node, node + 1): 5 for node in range(arcs)}, 0, arcs).value_bps == 5


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_way_through(solver):
    result = check({("s", "a"): 5, ("b", "d"): 5, ("d", "s"): 7}, "s", "d", solver)
    assert (result.value_bps, result.source_side) == (0, {"s", "a"})


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_long_path_needs_no_recursion(solver):
    capacities = {(node, node + 1): 10**9 + node for node in range(5000)}
    assert max_flow(capacities, 0, 5000, solver).min_cut == ((0, 1),)


def test_capacities_too_wide_for_two_passes_are_still_exact():
    capacities = {("s", "r"): 10**30 + 1, ("r", "d"): 10**30, ("s", "g"): 3, ("g", "d"): 10**25}
    assert check(capacities, "s", "d", "scipy").value_bps == 10**30 + 3


def test_large_graphs_go_to_scipy_and_agree():
    rng = random.Random(2)
    capacities = {}
    while len(capacities) < SCIPY_ARCS:
        a, b = rng.randrange(1500), rng.randrange(1500)
        if a != b:
            capacities[a, b] = rng.randrange(2 * 10**9)
    assert max_flow(capacities, 0, 1).value_bps == max_flow(capacities, 0, 1, "dinic").value_bps > 0


@pytest.mark.parametrize(
    ("capacities", "source", "sink", "message"),
    [
        ({("s", "d"): -1}, "s", "d", "capacity of s->d is -1: give 0 or more"),
        ({("s", "d"): 1.5}, "s", "d", "capacity of s->d is 1.5: give a whole number"),
        ({("s", "d"): None}, "s", "d", "capacity of s->d is None"),
        ({("s", "s"): 1}, "s", "d", "joins a node to itself"),
        ({("s", "d"): 1}, "s", "s", "source and sink are both 's'"),
        ({("s", "d"): 1}, "x", "d", "no arc touches the source 'x'"),
        ({("s", "d"): 1}, "s", "x", "no arc touches the sink 'x'"),
        ({}, "s", "d", "no arc touches"),
    ],
)
def test_refusals(capacities, source, sink, message):
    with pytest.raises(ScenarioError, match=message):
        max_flow(capacities, source, sink)
