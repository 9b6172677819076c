"""A run's counters, programs and figures as they would be read from a network of known rates: shared by the tests.

Counters are made as the text of /proc/net/dev and /proc/stat, so that reading them is tested too.
"""

import math

from gnl.controller.plan import plan_run
from gnl.controller.sizes import Sizes
from gnl.experiments import counters
from gnl.experiments.counters import Sample, Series
from gnl.experiments.phases import Traffic
from gnl.experiments.windows import SKIP_S
from gnl.node_apps.protocol.header import wire_bytes_of
from gnl.topologies.named import NAMED

FRAME_BYTES = 1482
TICKS_PER_S = 100
HEAD = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast"
    "|bytes    packets errs drop fifo colls carrier compressed\n"
)


def net_dev(interfaces):
    """/proc/net/dev for {interface: {column: count}}, columns as rx_bytes, rx_packets, rx_drops, tx_bytes, ..."""
    rows = [f"    lo: {' '.join(['0'] * 16)}\n"]
    for name, found in interfaces.items():
        receive = [found.get("rx_bytes", 0), found.get("rx_packets", 0), 0, found.get("rx_drops", 0), 0, 0, 0, 0]
        transmit = [found.get("tx_bytes", 0), found.get("tx_packets", 0), 0, found.get("tx_drops", 0), 0, 0, 0, 0]
        rows.append(f"{name:>6}: {' '.join(map(str, receive + transmit))}\n")
    return (HEAD + "".join(rows)).encode()


def cpu_stat(t_s, busy=0.3, stolen=0.0, nice=0.0, cores=2):
    """The first lines of /proc/stat after `t_s` seconds in which these shares of the time were spent."""
    total = cores * TICKS_PER_S * t_s
    user, gone, low = busy * total, stolen * total, nice * total
    ticks = [user, low, 0, total - user - gone - low, 0, 0, 0, gone, 0, 0]
    return ("cpu  " + " ".join(str(round(tick)) for tick in ticks) + "\ncpu0 1 2 3 4 5 6 7 8 9 10\n").encode()


def staircase(rate_bps, t_s, frame_bytes=FRAME_BYTES, phase=0.0):
    """Bytes and packets of whole frames that a steady flow has moved by `t_s`."""
    packets = max(0, math.floor(rate_bps * t_s / (8 * frame_bytes) + phase))
    return packets * frame_bytes, packets


def sample(t_s, interfaces, stat=None):
    """A sample at `t_s` of {node: {interface: columns}}."""
    parsed = {node: counters._parse_net_dev(net_dev(found)) for node, found in interfaces.items()}
    return Sample(t_s, parsed, counters._parse_cpu(stat or cpu_stat(t_s)))


def series_of_flows(flows_bps, times, stat=cpu_stat, frame_bytes=FRAME_BYTES, from_s=0.0, until_s=math.inf):
    """Samples at `times` of steady flows {(sender, receiver): rate} between two times; nothing is lost."""
    samples = []
    for t_s in times:
        nodes = {}
        for index, ((a, b), rate) in enumerate(flows_bps.items()):
            spent_s = max(0.0, min(t_s, until_s) - from_s)
            size, packets = staircase(rate, spent_s, frame_bytes, phase=(0.37 * index) % 1)
            nodes.setdefault(a, {}).setdefault(f"{a}-{b}", {}).update(tx_bytes=size, tx_packets=packets)
            nodes.setdefault(b, {}).setdefault(f"{b}-{a}", {}).update(rx_bytes=size, rx_packets=packets)
        samples.append(sample(t_s, nodes, stat(t_s)))
    return Series(samples)


def every(step_s, stop_s, start_s=0.0):
    return [start_s + i * step_s for i in range(round((stop_s - start_s) / step_s) + 1)]


def diamond_plan(
    content_bytes=196_616, prompt_bytes=1500, images=4, generative=True, rate=None, scenario=NAMED["diamond"]
):
    """The plan of Fig. 1 for images of one size."""
    contents = (content_bytes,) * images
    sizes = Sizes(contents, contents, ((prompt_bytes,),) * images, generative, "test")
    return plan_run(scenario, sizes, rate)


def hop_flows(plan, phase):
    """{(sender, receiver): planned wire rate} of a phase, in the direction that packets take."""
    return {(hop.source, hop.target): phase.flows_bps["wire"][hop.link] for hop in plan.diamond.hops}


def fact(flow, content, kind="plain", made="none", complete=True, t_last_s=0.0, crc=0, size=100):
    return {
        "flow": flow,
        "content": content,
        "kind": kind,
        "made": made,
        "complete": complete,
        "bytes": size,
        "packets": 1,
        "t_first_s": t_last_s,
        "t_last_s": t_last_s,
        "source": "10.201.0.1",
        "crc": crc,
    }


def traffic(phase, start_s=0.0, duration_s=15.0, facts=(), contents=(0, 0), router=None, drained=True, **source):
    """What a phase left behind; `contents`: how many each of its two flows sent; `source`: more facts of each flow."""
    flows = [
        {
            "flow": index,
            "kind": stream.kind,
            "contents": count,
            "packets": count,
            "wire_bytes": wire_bytes_of(100),
            "lost_s": 0.0,
            "error": None,
            **source,
        }
        for index, (stream, count) in enumerate(zip(phase.streams, contents))
    ]
    stop_s = start_s + SKIP_S + duration_s
    return Traffic(
        phase,
        start_s,
        start_s + SKIP_S,
        stop_s,
        {"flows": flows, "cpu_s": 1.0},
        router,
        {"counters": {"receive_buffer_drops": 0, "unreadable_contents": 0}, "cpu_s": 1.0},
        list(facts),
        drained,
    )


def router_said(**counters_found):
    return {
        "counters": {"receive_buffer_drops": 0, **counters_found},
        "sent": {"contents": 1},
        "in_flight_at_stop": 0,
        "waiting_at_stop": 0,
        "cpu_s": 1.0,
    }
