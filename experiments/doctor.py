"""Say what this machine can do for a run, why each thing matters, and the remedy for each that it cannot."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gnl.experiments import clean, machine_probes, run_state
from gnl.node_apps.codecs.registry import WEIGHTS_DIR, read_sidecar
from gnl.topologies.errors import GnlError

OK, DEGRADED, MISSING = "ok", "degraded", "missing"
PYTHON_RANGE = ((3, 11), (3, 12))
STEAL_SAMPLE_S = 0.4
STEAL_LIMIT_PERCENT = 10.0
GPU_WITHIN_S = 30.0
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies")
# program -> (Debian package, needed by every run, why)
PROGRAMS = {
    "mnexec": ("mininet", True, "puts each node into its namespaces"),
    "ip": ("iproute2", True, "gives nodes their addresses and routes"),
    "tc": ("iproute2", True, "shapes every link"),
    "ethtool": ("ethtool", True, "turns off the offload that falsifies counters"),
    "nft": ("nftables", True, "hands prompts to the generative router; drops packets where a link has loss"),
    "ifconfig": ("net-tools", True, "Mininet sets interfaces up with it"),
    "iperf3": ("iperf3", True, "calibrates every link before a run"),
    "tcpdump": ("tcpdump", False, "writes packets to files (gnl run --pcap)"),
}
# probe -> (needed by every run, why, remedy)
KERNEL = {
    "veth": (True, "every link is a veth pair", "modprobe veth"),
    "forwarding": (True, "plain routers forward in the kernel", "in a container: start it with --privileged"),
    "htb": (True, "shapes every link to its capacity", "modprobe sch_htb"),
    "offloads": (True, "counters must count what is on the wire", "apt-get install ethtool"),
    "policy_routing": (True, "one flow takes its own path", "use a kernel with CONFIG_IP_MULTIPLE_TABLES"),
    "nft_tproxy": (True, "the generative router takes prompts off the wire", "modprobe nft_tproxy"),
    "udp_segment": (True, "batches of datagrams keep a sender's CPU use low", "use Linux 4.18 or newer"),
    "ip_transparent": (True, "the generative router sends as the source", "run as root"),
    "nft_loss": (False, "loss_percent of a link", "modprobe nft_numgen, or leave loss_percent at 0"),
    "netem": (
        False,
        "delay_ms and jitter_ms of a link",
        "modprobe sch_netem (Ubuntu: linux-modules-extra-$(uname -r)), or leave delay_ms at 0",
    ),
    "ipv6": (False, "ip_version: 6 in a scenario", "sysctl net.ipv6.conf.all.disable_ipv6=0, or leave ip_version at 4"),
}


@dataclass(frozen=True)
class Item:
    """One thing that was looked at. `needed`: no run works without it."""

    name: str
    state: str
    found: str
    why: str
    remedy: str = ""
    needed: bool = True


def doctor(as_json: bool = False, say: Callable[[str], None] = print) -> int:
    """Examine this machine and print what was found; 0 where `gnl run diamond` can work for this user now, else 1."""
    items = list(examine())
    lacking = [item.name for item in items if item.needed and item.state == MISSING]
    if as_json:
        say(json.dumps({"ok": not lacking, "items": [asdict(item) for item in items]}, indent=1))
        return 1 if lacking else 0
    width = max(len(item.name) for item in items)
    for item in items:
        say(f"{item.state:8}  {item.name:{width}}  {item.found}")
        if item.state != OK:
            say(f"{'':8}  {'':{width}}  {item.why}; remedy: {item.remedy}")
    say(f"gnl run cannot work here yet: see {', '.join(lacking)}" if lacking else "gnl run diamond can work here")
    return 1 if lacking else 0


def examine() -> Iterator[Item]:
    """Look at everything, most basic first; takes about a second (more where a GPU has to wake up)."""
    steal_before, started = _cpu_times(), time.monotonic()
    gpu_question = _ask_torch_for_gpu()
    yield _root()
    yield _python()
    yield _packages()
    yield from _programs()
    yield from _kernel()
    yield from _weights()
    yield _gpu(gpu_question)
    yield _memory()
    yield _disk()
    yield _clock()
    yield from _runs()
    time.sleep(max(0.0, STEAL_SAMPLE_S - (time.monotonic() - started)))
    yield _cores(steal_before, _cpu_times())


def _root() -> Item:
    why = "namespaces, shapers and transparent sockets are root's; analyze, codecs, encode and decode need none"
    if os.geteuid() == 0:
        return Item("root", OK, "yes", why)
    return Item("root", MISSING, f"no (user id {os.geteuid()})", why, "sudo ./gnl doctor, sudo ./gnl run diamond")


def _python() -> Item:
    low, high = (".".join(map(str, version)) for version in PYTHON_RANGE)
    why = "the pinned packages are built for these versions"
    state = OK if PYTHON_RANGE[0] <= sys.version_info[:2] <= PYTHON_RANGE[1] else MISSING
    return Item("python", state, platform.python_version(), why, f"install Python {low} to {high}, then ./gnl")


def _packages() -> Item:
    """Compare what is installed with the pins that gnl was installed with."""
    why, remedy = "a result is comparable where the same versions ran", "remove .venv and run ./gnl again"
    try:
        pins = [line.split(";")[0].strip().split("==") for line in importlib.metadata.requires("gnl") or []]
    except importlib.metadata.PackageNotFoundError:
        return Item("packages", MISSING, "gnl itself is not installed in this Python", why, "start it as ./gnl")
    absent, other = [], []
    for name, version in (pin for pin in pins if len(pin) == 2):
        try:
            # A local version such as 2.13.0+cpu is the same release built for another device.
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if found != version:
            other.append(f"{name} {found} instead of {version}")
    if absent:
        return Item("packages", MISSING, f"not installed: {', '.join(absent)}", why, remedy)
    if other:
        return Item("packages", DEGRADED, "; ".join(other), why, remedy)
    return Item("packages", OK, f"{len(pins)} as pinned, torch {importlib.metadata.version('torch')}", why)


def _programs() -> Iterator[Item]:
    for program, (package, needed, why) in PROGRAMS.items():
        path = shutil.which(program)
        state = OK if path else MISSING if needed else DEGRADED
        yield Item(program, state, path or "not on PATH", why, f"apt-get install {package}", needed)
    complaint = machine_probes.probe_mnexec() if os.geteuid() == 0 and shutil.which("mnexec") else None
    if complaint is not None:
        yield Item(
            "namespaces",
            MISSING if complaint else OK,
            complaint or "mnexec makes them",
            "every node is a network namespace",
            "in a container: start it with --privileged",
        )


def _kernel() -> Iterator[Item]:
    results = machine_probes.probe_kernel()
    for name, (needed, why, remedy) in KERNEL.items():
        if results is None:
            state, found, remedy = DEGRADED, "not tried: no network namespace could be made", "sudo ./gnl doctor"
        elif name not in results:
            state, found = MISSING if needed else DEGRADED, "the attempt did not end"
        else:
            state = OK if not results[name] else MISSING if needed else DEGRADED
            found = results[name] or "works"
        yield Item(name, state, found, why, remedy, needed)


def _weights() -> Iterator[Item]:
    why = "generative codecs decode with the weights that they were trained to"
    remedy = "git checkout node_apps/codecs/weights, or train again with gnl train"
    sidecars = sorted(WEIGHTS_DIR.glob("*.json"))
    if not sidecars:
        yield Item("weights", MISSING, f"none in {WEIGHTS_DIR}", why, remedy)
    for path in sidecars:
        name, weights = f"weights {path.stem}", path.with_suffix(".safetensors")
        try:
            wanted, found = read_sidecar(path)["sha256"], hashlib.sha256(weights.read_bytes()).hexdigest()
        except (GnlError, OSError) as error:
            yield Item(name, MISSING, str(error), why, remedy)
            continue
        if found == wanted:
            yield Item(name, OK, f"sha256 {found[:12]}, {weights.stat().st_size / 1e6:.1f} MB", why)
        else:
            yield Item(name, MISSING, f"{weights} has sha256 {found[:12]}, not {wanted[:12]}", why, remedy)


def _gpu_devices() -> list[str]:
    """Device files that a GPU driver makes; where there is none, torch (seconds to import) need not be asked."""
    return [str(path) for path in (*sorted(Path("/dev").glob("nvidia[0-9]*")), Path("/dev/kfd")) if path.exists()]


def _ask_torch_for_gpu() -> subprocess.Popen[str] | None:
    if not _gpu_devices():
        return None
    question = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    return subprocess.Popen(
        [sys.executable, "-c", question], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _gpu(question: subprocess.Popen[str] | None) -> Item:
    why = "the decoder generates on a GPU where there is one, else on the CPU"
    if question is None:
        return Item("gpu", OK, "none: the decoder uses the CPU", why, needed=False)
    try:
        name = question.communicate(timeout=GPU_WITHIN_S)[0].strip()
    except subprocess.TimeoutExpired:
        question.kill()
        question.communicate()
        name = ""
    if name:
        return Item("gpu", OK, name, why, needed=False)
    found = f"{', '.join(_gpu_devices())} is there, but torch {importlib.metadata.version('torch')} finds no GPU"
    return Item(
        "gpu", DEGRADED, found, why, "install the driver's CUDA libraries and a CUDA build of torch", needed=False
    )


def _memory() -> Item:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_gib = int(facts["MemAvailable"].split()[0]) / 2**20
    state = OK if free_gib >= 2 else DEGRADED if free_gib >= 1 else MISSING
    return Item(
        "memory",
        state,
        f"{free_gib:.1f} GiB available",
        "torch and the images of a run take 1 to 2 GiB",
        "end other programs, or use fewer and smaller images",
    )


def _disk() -> Item:
    places = [(Path.cwd(), 1e9), (run_state.RUN_ROOT.parent, 1e7)]
    free = [(place, shutil.disk_usage(place).free, wanted) for place, wanted in places]
    short = [place for place, found, wanted in free if found < wanted]
    found = ", ".join(f"{size / 1e9:.1f} GB in {place}" for place, size, _ in free)
    return Item(
        "disk",
        DEGRADED if short else OK,
        found,
        "a run writes images, counters and a report",
        f"free space in {' and '.join(map(str, short))}, or give --out",
        needed=False,
    )


def _clock() -> Item:
    path = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    source = path.read_text().strip() if path.exists() else "unknown"
    return Item(
        "clock",
        DEGRADED if source in SLOW_CLOCKS else OK,
        source,
        "a slow clock costs CPU at every packet",
        "boot with the clock source tsc, or kvm-clock in a virtual machine",
        needed=False,
    )


def _runs() -> Iterator[Item]:
    why = "one run at a time has the machine, or they falsify each other"
    run = run_state.live_run()
    if run is not None and run.main is not None:
        yield Item(
            "runs",
            MISSING,
            f"{run.run_id} is in progress (process {run.main.pid}, since {run.since})",
            why,
            "wait until it ends",
        )
    else:
        yield Item("runs", OK, "none in progress", why)
    left = clean.leftovers()
    yield Item(
        "leftovers",
        DEGRADED if left else OK,
        "; ".join(left) or "none",
        "a killed run may still use the CPU",
        "sudo ./gnl clean",
        needed=False,
    )


def _cpu_times() -> list[int]:
    return [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def _cores(before: list[int], after: list[int]) -> Item:
    spent = [late - early for early, late in zip(before, after)]
    total = max(sum(spent), 1)
    busy = 100.0 * (total - spent[3] - spent[4]) / total
    steal = 100.0 * spent[7] / total
    cores = len(os.sched_getaffinity(0))
    found = f"{cores} core{'' if cores == 1 else 's'}, {busy:.0f}% busy, {steal:.0f}% stolen"
    why = "a saturated or stolen CPU makes a run invalid: packets and the decoder share it"
    if cores < 2 or steal > STEAL_LIMIT_PERCENT or busy > 60:
        return Item(
            "cores", DEGRADED, found, why, "end other programs, or use a machine with two free cores", needed=False
        )
    return Item("cores", OK, found, why, needed=False)
