"""What `gnl doctor` says of machines that lack one thing or another."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
from gnl.experiments import doctor, machine_probes, run_state
from gnl.experiments.doctor import DEGRADED, MISSING, OK, Item


def by_name(items):
    return {item.name: item for item in items}


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """A machine on which every probe succeeds; tests then take one thing away."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(machine_probes, "probe_kernel", lambda: dict.fromkeys(doctor.KERNEL, ""))
    monkeypatch.setattr(machine_probes, "probe_mnexec", lambda: "")
    monkeypatch.setattr(doctor, "_gpu_devices", lambda: [])
    monkeypatch.setattr(doctor, "_cpu_times", lambda: [0] * 8)
    monkeypatch.setattr(doctor, "STEAL_SAMPLE_S", 0.0)
    monkeypatch.setattr(run_state, "live_run", lambda: None)
    monkeypatch.setattr(doctor.clean, "leftovers", lambda: [])
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "gnl-low.safetensors").write_bytes(b"weights")
    (weights / "gnl-low.json").write_text(json.dumps({"sha256": hashlib.sha256(b"weights").hexdigest()}))
    monkeypatch.setattr(doctor, "WEIGHTS_DIR", weights)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def examined(**_):
    said = []
    status = doctor.doctor(as_json=True, say=said.append)
    document = json.loads("\n".join(said))
    assert document["ok"] == (status == 0)
    return status, {item["name"]: item for item in document["items"]}


def test_a_machine_that_has_everything_passes(healthy):
    status, items = examined()
    assert status == 0 and not [item for item in items.values() if item["needed"] and item["state"] == MISSING]


def test_without_root_a_run_cannot_work_and_the_remedy_is_sudo(healthy):
    healthy.setattr(os, "geteuid", lambda: 1000)
    status, items = examined()
    assert status == 1 and items["root"]["state"] == MISSING and "sudo" in items["root"]["remedy"]


@pytest.mark.parametrize("program, status", [("mnexec", 1), ("nft", 1), ("iperf3", 1), ("tcpdump", 0)])
def test_a_missing_program_names_its_package(healthy, program, status):
    healthy.setattr(shutil, "which", lambda name: None if name == program else f"/usr/bin/{name}")
    found, items = examined()
    assert found == status and items[program]["remedy"] == f"apt-get install {doctor.PROGRAMS[program][0]}"


@pytest.mark.parametrize("feature, status", [("htb", 1), ("nft_tproxy", 1), ("netem", 0), ("ipv6", 0)])
def test_a_missing_kernel_feature_shows_the_kernels_own_complaint(healthy, feature, status):
    complaint = "Error: Specified qdisc kind is unknown."
    healthy.setattr(machine_probes, "probe_kernel", lambda: dict.fromkeys(doctor.KERNEL, "") | {feature: complaint})
    found, items = examined()
    assert found == status and items[feature]["found"] == complaint and items[feature]["remedy"]
    assert items[feature]["state"] == (MISSING if status else DEGRADED)


def test_features_that_could_not_be_tried_are_not_called_missing(healthy):
    healthy.setattr(machine_probes, "probe_kernel", lambda: None)
    _, items = examined()
    assert {items[name]["state"] for name in doctor.KERNEL} == {DEGRADED}


def test_weights_with_another_hash_are_named_with_both(healthy):
    (doctor.WEIGHTS_DIR / "gnl-low.safetensors").write_bytes(b"other")
    status, items = examined()
    wanted, found = (hashlib.sha256(data).hexdigest()[:12] for data in (b"weights", b"other"))
    assert status == 1 and wanted in items["weights gnl-low"]["found"] and found in items["weights gnl-low"]["found"]


@pytest.mark.parametrize("name", ["gnl-low.safetensors", "gnl-low.json"])
def test_absent_weights_or_record(healthy, name):
    (doctor.WEIGHTS_DIR / name).unlink()
    status, items = examined()
    assert (
        status == 1 and [item for item in items.values() if item["name"].startswith("weights")][0]["state"] == MISSING
    )


def test_another_run_in_progress_is_named(healthy, tmp_path):
    main = run_state.ProcessRecord(4321, 1, "main")
    healthy.setattr(run_state, "live_run", lambda: run_state.RunRecord("run-7", tmp_path, main, "2026-01-01T00:00:00"))
    status, items = examined()
    assert status == 1 and "run-7 is in progress (process 4321" in items["runs"]["found"]


def test_leftovers_of_a_killed_run_point_to_clean(healthy):
    healthy.setattr(doctor.clean, "leftovers", lambda: ["run run-7: 2 processes"])
    status, items = examined()
    assert status == 0 and items["leftovers"]["state"] == DEGRADED and "gnl clean" in items["leftovers"]["remedy"]


def test_stolen_time_is_measured_between_the_two_readings(healthy):
    # user, nice, system, idle, iowait, irq, softirq, steal: 20 of 100 ticks stolen, 50 idle.
    readings = iter([[0] * 8, [20, 0, 10, 50, 0, 0, 0, 20]])
    healthy.setattr(doctor, "_cpu_times", lambda: next(readings))
    _, items = examined()
    assert items["cores"]["state"] == DEGRADED and "50% busy, 20% stolen" in items["cores"]["found"]


def test_a_package_of_another_version_is_degraded_and_an_absent_one_missing(healthy):
    healthy.setattr(
        importlib.metadata, "requires", lambda name: ["numpy==0.1", "click==" + importlib.metadata.version("click")]
    )
    _, items = examined()
    assert items["packages"]["state"] == DEGRADED and "numpy" in items["packages"]["found"]
    assert "click" not in items["packages"]["found"]
    healthy.setattr(importlib.metadata, "requires", lambda name: ["no-such-package-of-ours==1"])
    status, items = examined()
    assert status == 1 and "no-such-package-of-ours" in items["packages"]["found"]


def test_a_gpu_is_asked_for_only_where_a_driver_made_a_device(healthy):
    asked = []
    healthy.setattr(subprocess, "Popen", lambda *command, **_: asked.append(command))
    assert examined()[1]["gpu"]["found"] == "none: the decoder uses the CPU" and asked == []


@pytest.mark.parametrize("answer, state", [("Some GPU", OK), ("", DEGRADED)])
def test_a_gpu_that_torch_finds_or_does_not(healthy, answer, state):
    healthy.setattr(doctor, "_gpu_devices", lambda: ["/dev/nvidia0"])
    start = subprocess.Popen
    healthy.setattr(
        subprocess, "Popen", lambda command, **options: start([sys.executable, "-c", f"print({answer!r})"], **options)
    )
    item = examined()[1]["gpu"]
    assert item["state"] == state and (answer or "/dev/nvidia0 is there") in item["found"]


def test_the_text_gives_a_remedy_for_each_thing_that_is_not_right(healthy):
    healthy.setattr(machine_probes, "probe_kernel", lambda: dict.fromkeys(doctor.KERNEL, "") | {"htb": "no htb"})
    said = []
    assert doctor.doctor(say=said.append) == 1
    at = next(number for number, line in enumerate(said) if line.startswith("missing   htb"))
    assert "no htb" in said[at] and "remedy: modprobe sch_htb" in said[at + 1]
    assert said[-1] == "gnl run cannot work here yet: see htb"


def test_every_item_says_why_and_every_bad_one_what_to_do():
    # On the real machine, whatever it lacks.
    items = list(doctor.examine())
    assert all(item.why and item.found for item in items)
    assert all(item.remedy for item in items if item.state != OK)
    assert {item.state for item in items} <= {OK, DEGRADED, MISSING}
    assert len({item.name for item in items}) == len(items) and dataclasses.is_dataclass(Item)


def test_a_probe_reports_each_step_apart(monkeypatch):
    monkeypatch.setattr(
        machine_probes,
        "kernel_steps",
        lambda: {
            "good": "true",
            "bad": "echo first complaint >&2\necho second >&2\nfalse",
            "silent": "exit 3",
            "after": "true",
        },
    )
    results = machine_probes.probe_kernel()
    if results is None:
        pytest.skip("no network namespaces for this user here: sudo ./gnl test")
    assert results["good"] == results["after"] == ""
    assert (results["bad"], results["silent"]) == ("first complaint", "failed")


@pytest.mark.emulation
def test_probes_leave_the_machines_own_network_alone():
    def interfaces_and_rules():
        return [
            subprocess.run(command, capture_output=True, text=True).stdout
            for command in (["ip", "-br", "link"], ["ip", "rule"], ["nft", "list", "tables"], ["tc", "qdisc"])
        ]

    before = interfaces_and_rules()
    results = machine_probes.probe_kernel()
    assert results is not None and set(results) == set(doctor.KERNEL)
    assert interfaces_and_rules() == before
