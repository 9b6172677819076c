"""The folder of a run as a run leaves it, and its page as a browser reads it: what the tests of the report share."""

import json
import random
from html.parser import HTMLParser

from gnl.experiments.report import write_report
from PIL import Image

ROLES = {"s": "source", "r": "router", "g": "genai", "d": "sink"}
LINKS = {"s-r": 10.0, "r-d": 10.0, "s-g": 2.0, "g-d": 20.0}
WIRE_SHARE = 1408 / 1482  # payload of a full packet over its frame
CONTENT_BYTES, PROMPT_BYTES = 196616, 1310


def level(share, scale=1.0, noise=lambda: 1.0):
    """One `A` of the schema: flows of the diamond with g-d full, at `share` of the wire rate."""
    flows = {"s-r": 10e6, "r-d": 10e6, "s-g": 20e6 * PROMPT_BYTES / CONTENT_BYTES, "g-d": 20e6}
    flows = {name: rate * share * scale * noise() for name, rate in flows.items()}
    max_flow = 12e6 * share * scale * noise()
    y_g = flows["g-d"] - flows["s-g"]
    return {
        "max_flow_bps": max_flow,
        "flows_bps": flows,
        "y_g_bps": y_g,
        "g_flow": 1 + y_g / max_flow,
        "delivery_gain": (flows["r-d"] + flows["g-d"]) / max_flow,
        "contents_per_s": (flows["r-d"] + flows["g-d"]) / share * WIRE_SHARE / 8 / CONTENT_BYTES,
    }


def errors(measured, analytic):
    pairs = {key: measured[key] / analytic[key] - 1 for key in ("g_flow", "delivery_gain", "max_flow_bps")}
    links = [measured["flows_bps"][name] / rate - 1 for name, rate in analytic["flows_bps"].items()]
    return {**pairs, "links_max": max(links, key=abs)}


def result_tree(seed=1, repeats=1):
    """A result.json of a good run of the diamond, measured within a few tenths of a percent of the prediction."""
    rng = random.Random(seed)
    noise = lambda: 1 + rng.gauss(0, 0.0008)  # noqa: E731
    analytic = {"wire": level(1.0), "payload": level(WIRE_SHARE)}

    def once():
        measured = {"wire": level(1.0, 0.9995, noise), "payload": level(WIRE_SHARE, 0.9995, noise)}
        error = {name: errors(measured[name], analytic[name]) for name in measured}
        return {"measured": measured, "error": error, "valid": True, "reasons": []}

    runs = [once() for _ in range(repeats)]
    tree = {
        "schema": 1,
        "run": {
            "id": "20261122-104501-7f3a", "seed": seed, "repeat": repeats, "duration_s": 20.0,
            "started": "2026-11-22T10:45:01Z", "command": "gnl run diamond --seed 1",
            "versions": {"gnl": "0.1.0", "mininet": "2.3.0.dev6", "torch": "2.13.0+cpu", "kernel": "6.18.0"},
            "host": {"cpu": "Two cores of some machine", "cores": 2, "memory_gib": 7.8},
            "scenario": {
                "name": "diamond",
                "nodes": {name: {"role": role} for name, role in ROLES.items()},
                "links": {
                    name: {"bw_mbit": bw, "bw_back_mbit": None, "delay_ms": 0.0, "jitter_ms": 0.0, "loss_percent": 0.0}
                    for name, bw in LINKS.items()
                },
                "content": {"images": "sample", "size_px": 256, "codec": "gnl-low", "bpp": None, "format": "raw"},
                "ip_version": 4,
            },
        },
        "calibration": [
            {"link": name, "direction": direction, "configured_mbit": bw, "measured_mbit": bw * factor,
             "rel_error": factor - 1}
            for name, bw in LINKS.items()
            for direction in (f"{name[0]}->{name[2]}", f"{name[2]}->{name[0]}")
            for factor in [1 - abs(rng.gauss(0, 0.0006))]
        ],
        "codec": {
            "name": "gnl-low", "device": "cpu", "weights_sha256": "9f2c" * 16, "bpp_mean": 0.16,
            "prompt_bytes_mean": 1310.4, "content_bytes_mean": 196616.0, "generation_rate_bps": 81.2e6,
        },
        "plan": {
            "lambda_per_s": 12.0787, "binds": ["g-d"], "min_cut": ["s-r", "s-g"], "notes": [],
            "paths": [["s", "r", "d"], ["s", "g", "d"]],
            "replicate_flows_bps": {
                "wire": {"s-r": 10e6, "r-d": 10e6, "s-g": 2e6, "g-d": 2e6},
                "payload": {"s-r": 9.5e6, "r-d": 9.5e6, "s-g": 1.9e6, "g-d": 1.9e6},
            },
            "sentence": "G_flow is above the delivery gain because g-d would also have carried 2 Mbit/s of replicas.",
        },
        "analytic": analytic,
        "measured": runs[0]["measured"],
        "error": runs[0]["error"],
        "images": {"sent": 412, "delivered": 405, "generated": 268, "plain": 137, "partial": 0, "failed": 0,
                   "missing": 0},
        "quality": {"psnr_db": 24.81, "mse": 231.4, "mse_normalised": 0.0131},
        "packets": {
            "source": {"prompts_sent": 275, "plain_sent": 140, "packets_sent": 19875},
            "g": {"received": 275, "decoded": 275, "dropped": {"queue_full": 0, "check": 0, "expired": 0}},
            "sink": {"received": 57120, "dropped": {"short": 0, "magic": 0}, "receive_buffer_drops": 0},
            "links": {name: {"tx_packets": 19000 + i, "tx_dropped": 0} for i, name in enumerate(LINKS)},
        },
        "valid": True,
        "reasons": [],
    }  # fmt: skip
    if repeats > 1:
        tree["repeats"] = runs
        tree["measured"] = {**tree["measured"], "ci95": {**spread(runs, "wire"), "payload": spread(runs, "payload")}}
    return tree


def spread(runs, name):
    values = [item["measured"][name] for item in runs]
    keys = ("g_flow", "delivery_gain", "max_flow_bps")
    return {key: [min(v[key] for v in values), max(v[key] for v in values)] for key in keys}


def series_tree(repeats=1, seed=1):
    """Counters of such a run: calibration of each link in turn, then both phases, with one window discarded."""
    rng = random.Random(seed)
    phases, rates, now = [], [], 0.0

    def stretch(name, repeat, length, flows, windows=()):
        nonlocal now
        if name:
            spans = [[now + a, now + b, verdict] for a, b, verdict in windows]
            phases.append({"name": name, "repeat": repeat, "t0": now, "t1": now + length, "windows": spans})
        rates.append((now, now + length, flows))
        now += length

    stretch(None, 0, 0.4, {})
    calibrate_start = now
    for name, bw in LINKS.items():
        stretch(None, 0, 1.5, {name: bw * 1e6})
    phases.append({"name": "calibrate", "repeat": 0, "t0": calibrate_start, "t1": now, "windows": []})
    replicate = {"s-r": 10e6, "r-d": 10e6, "s-g": 2e6, "g-d": 2e6}
    generate = {"s-r": 10e6, "r-d": 10e6, "s-g": 20e6 * PROMPT_BYTES / CONTENT_BYTES, "g-d": 20e6}
    for repeat in range(repeats):
        verdicts = ["ok", "ok", "discarded: 14% of the CPU was stolen" if repeat == 0 else "ok", "ok"]
        stretch("replicate", repeat, 17.5, replicate, [(2 + 5 * i, 7 + 5 * i, "ok") for i in range(3)])
        stretch(None, repeat, 1.0, {})
        stretch(
            "generate", repeat, 22.5, generate, [(2 + 5 * i, 7 + 5 * i, verdict) for i, verdict in enumerate(verdicts)]
        )
    stretch(None, 0, 1.0, {})

    times, counters, stolen = [], {name: [] for name in LINKS}, []
    totals, moment = dict.fromkeys(LINKS, 0.0), 0.0
    bad = [(a, b) for p in phases for a, b, verdict in p["windows"] if verdict != "ok"]
    while moment < now:
        flows = next(flows for start, end, flows in rates if start <= moment < end or end >= now)
        is_bad = any(a + 2 < moment < a + 3.5 for a, b in bad)
        times.append(round(moment, 4))
        stolen.append(0.3 + rng.random() / 4 if is_bad else max(0.0, rng.gauss(0.004, 0.006)))
        for name in LINKS:
            counters[name].append(round(totals[name]))
            totals[name] += flows.get(name, 0) / 8 * 0.05 * (0.82 if is_bad else 1) * (1 + rng.gauss(0, 0.004))
        moment += 0.05
    links = {name: {"tx_bytes": values, "rx_bytes": values} for name, values in counters.items()}
    return {"phases": phases, "t": times, "links": links, "stolen_cpu": stolen[1:]}


def synthetic_pair(seed, size=(96, 96)):
    """A smooth coloured picture and a coarser copy of it, as a decoder might make."""
    rng = random.Random(seed)
    small = Image.new("RGB", (6, 6))
    small.putdata([tuple(rng.randrange(256) for _ in range(3)) for _ in range(36)])
    sent = small.resize(size, Image.Resampling.BICUBIC)
    return sent, sent.resize((size[0] // 6, size[1] // 6)).resize(size, Image.Resampling.BILINEAR)


def make_run(folder, tree=None, series=True, pairs=3, repeats=1):
    """Write a run's folder; `pairs` is how many triplets, or a list of (sent, received) pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result_tree(repeats=repeats) if tree is None else tree))
    if series:
        (folder / "series.json").write_text(json.dumps(series_tree(repeats)))
    pictures = [synthetic_pair(seed) for seed in range(pairs)] if isinstance(pairs, int) else pairs
    if pictures:
        write_triplets(folder / "images", pictures)
    return folder


def write_triplets(folder, pictures):
    folder.mkdir(exist_ok=True)
    listed = []
    for index, (sent, received) in enumerate(pictures):
        names = {"sent": f"{index:03}-sent.png", "received": f"{index:03}-generated.png"}
        sent.save(folder / names["sent"])
        received.save(folder / names["received"])
        facts = {"name": f"photo-{index:02}", "made": "explicit", "psnr_db": 23.5 + index / 7}
        listed.append({**facts, **names, "prompt_bytes": 1200 + 31 * index, "content_bytes": CONTENT_BYTES})
    (folder / "triplets.json").write_text(json.dumps(listed))


class Page(HTMLParser):
    """Elements of a page: tags with their attributes, figures, text, and that every element is closed."""

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source, self.tags, self.figures, self.texts, self.open = text, [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "data" or (tag == "tspan" and "data-value" in dict(attributes)):
            self.figures.append([dict(attributes), ""])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        optional = {"tr", "td", "th"}
        while self.open and self.open[-1] != tag and self.open[-1] in optional:
            self.open.pop()
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("data", "tspan") and self.figures:
            self.figures[-1][1] = self.figures[-1][1] or data

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def at_path(tree, path):
    for step in path.split("/"):
        tree = tree[int(step)] if isinstance(tree, list) else tree[step]
    return tree


def read_back(text):
    """The number that a reader takes from a figure's text, and by how much its rounding may be off."""
    plain = text.replace("\u2212", "-").replace("\u202f", "").rstrip("%")
    scale = 0.01 if text.endswith("%") else 1.0
    decimals = len(plain.partition(".")[2].partition("e")[0])
    step = 10.0**-decimals * (10.0 ** int(plain.partition("e")[2]) if "e" in plain else 1.0)
    return float(plain) * scale, 0.5000001 * step * scale
