"""`gnl run` as a user calls it: the way to result.json, and what is left when it is stopped, killed or refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import machine_for_this_test, wait_until
from gnl.experiments.run_state import RUN_ID_VARIABLE
from PIL import Image

pytestmark = pytest.mark.emulation
GNL = [sys.executable, "-m", "gnl.experiments.cli"]
SLOW = ["--set", "links.s-r.bw_mbit=4", "--set", "links.r-d.bw_mbit=4", "--set", "links.g-d.bw_mbit=8"]
# What a busy machine may cause in a short run, and what the run then says; nothing else may be held against it.
BUSY = ("windows count", "busy", "whole core", "behind its schedule")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        side = 80 + 40 * number
        Image.linear_gradient("L").resize((side, 90)).rotate(50 * number).convert("RGB").save(
            folder / f"{number} &<b>.png"
        )
    (folder / "notes.txt").write_text("no image")
    return folder


def gnl(*arguments, cwd, **rest):
    machine_for_this_test().release()
    return subprocess.run([*GNL, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=240, **rest)


def run_diamond(images, codec, *options, cwd):
    """The diamond at rates that a busy machine carries too."""
    return gnl("run", "diamond", "--images", images, "--codec", codec, *options, *SLOW, cwd=cwd)


def processes_of_runs():
    """Every live process that was started for a run, found by what it inherited."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if RUN_ID_VARIABLE.encode() + b"=" in path.read_bytes() and int(path.parts[2]) != os.getpid():
                found.append(int(path.parts[2]))
        except OSError:
            continue
    return found


def started_run(tmp_path, until):
    """A run in the background, once it has said `until`."""
    machine_for_this_test().release()
    log = tmp_path / "log"
    process = subprocess.Popen(
        [*GNL, "run", "diamond", "--codec", "stub:900", "--out", str(tmp_path / "out"), *SLOW],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=open(log, "w"),
        text=True,
    )
    wait_until(lambda: until in log.read_text() or process.poll() is not None, 60)
    assert process.poll() is None, log.read_text()
    return process, log


def test_a_run_measures_what_was_planned(tmp_path, photos):
    out = tmp_path / "out"
    done = run_diamond(photos, "stub:900", "--duration", "6", "--out", out, "--json", "--pcap", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert result == json.loads((out / "result.json").read_text())
    assert done.returncode == (0 if result["valid"] else 1), done.stderr
    assert all(any(word in reason for word in BUSY) for reason in result["reasons"]), result["reasons"]

    assert result["run"]["scenario"]["links"]["g-d"]["bw_mbit"] == 8
    assert len(result["calibration"]) == 8
    assert result["skipped_images"] == [{"name": "notes.txt", "reason": result["skipped_images"][0]["reason"]}]
    for level in ("wire", "payload"):
        analytic, measured = result["analytic"][level], result["measured"][level]
        assert measured["g_flow"] == pytest.approx(analytic["g_flow"], rel=0.02)
        assert measured["max_flow_bps"] == pytest.approx(analytic["max_flow_bps"], rel=0.02)
        assert result["error"][level]["g_flow"] == pytest.approx(measured["g_flow"] / analytic["g_flow"] - 1)
        y_g = measured["flows_bps"]["g-d"] - measured["flows_bps"]["s-g"]
        assert measured["g_flow"] == pytest.approx(1 + y_g / measured["max_flow_bps"])
    assert result["analytic"]["wire"]["max_flow_bps"] == pytest.approx(6e6)  # min(4, 4) + min(2, 8)
    images = result["images"]
    assert images["sent"] == images["delivered"] == images["generated"] + images["plain"] > 20
    assert images["partial"] == images["failed"] == images["missing"] == 0

    triplets = json.loads((out / "images" / "triplets.json").read_text())
    assert sorted(row["name"] for row in triplets) == [f"{number} &<b>.png" for number in range(4)]
    assert "&lt;b&gt;" in (out / "report.html").read_text()
    assert sorted(path.name for path in (out / "pcap").iterdir()) == ["g-d.pcap", "r-d.pcap", "s-g.pcap", "s-r.pcap"]
    assert all(path.stat().st_size > 10_000 for path in (out / "pcap").iterdir())
    assert processes_of_runs() == []

    again = gnl("run", out / "result.json", "--duration", "3", "--out", tmp_path / "again", "--json", cwd=tmp_path)
    repeated = json.loads(again.stdout)
    assert repeated["run"]["scenario"] == result["run"]["scenario"]
    assert repeated["analytic"]["wire"]["flows_bps"] == pytest.approx(result["analytic"]["wire"]["flows_bps"])


def test_repeats_give_intervals_and_png_contents_their_own_size(tmp_path, photos):
    options = ["--content", "png", "--repeat", "2", "--set", "ip_version=6"]
    done = run_diamond(photos, "stub:900", *options, "--duration", "3", "--out", "out", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert all(any(word in reason for word in BUSY) for reason in result["reasons"]), result["reasons"]
    assert len(result["repeats"]) == 2
    low, high = result["measured"]["ci95"]["g_flow"]
    assert low <= result["measured"]["wire"]["g_flow"] <= high
    assert result["measured"]["wire"]["g_flow"] == pytest.approx(result["analytic"]["wire"]["g_flow"], rel=0.05)


def test_images_of_unequal_sizes_by_a_codec_that_replicates(tmp_path, photos):
    options = ["--set", "content.size_px=null", "--duration", "3", "--out", "out", "--json"]
    done = run_diamond(photos, "jpeg:30", *options, cwd=tmp_path)
    result = json.loads(done.stdout)
    assert all(any(word in reason for word in BUSY) for reason in result["reasons"]), result["reasons"]
    assert result["analytic"]["wire"]["g_flow"] == 1
    assert result["measured"]["wire"]["g_flow"] == pytest.approx(1, abs=0.02)
    assert result["images"]["generated"] == 0 and result["quality"]["images"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_takes_everything_down(tmp_path, number):
    interfaces = set(os.listdir("/sys/class/net"))
    process, log = started_run(tmp_path, "replicate (")
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and stdout == ""
    assert log.read_text().splitlines()[-1] == "gnl: interrupted: everything that was started has been taken down"
    assert processes_of_runs() == [] and set(os.listdir("/sys/class/net")) == interfaces
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_killed_run_leaves_nothing_that_clean_does_not_remove(tmp_path):
    interfaces = set(os.listdir("/sys/class/net"))
    process, _ = started_run(tmp_path, "replicate (")
    assert len(processes_of_runs()) > 5
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of_runs(), 10)
    assert set(os.listdir("/sys/class/net")) == interfaces
    assert not (tmp_path / "out" / "result.json").exists()
    cleaned = gnl_clean(tmp_path)
    assert cleaned.returncode == 0 and "/run/gnl/" in cleaned.stdout
    assert "nothing to clean" in gnl_clean(tmp_path).stdout


def gnl_clean(cwd):
    return subprocess.run([*GNL, "clean"], cwd=cwd, capture_output=True, text=True, timeout=30)


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path):
    process, _ = started_run(tmp_path, "calibrating")
    second = subprocess.run(
        [*GNL, "run", "diamond", "--codec", "stub:900", "--out", "second"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1 and "another run is in progress" in second.stderr and "Traceback" not in second.stderr
    cleaned = gnl_clean(tmp_path)
    assert cleaned.returncode == 1 and process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def test_a_run_that_fails_leaves_no_result_of_an_earlier_one(tmp_path, photos):
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text('{"valid": true}')
    done = gnl(
        "run",
        "diamond",
        "--images",
        photos,
        "--codec",
        "stub:900",
        "--out",
        out,
        "--set",
        "links.s-g.delay_ms=5",
        cwd=tmp_path,
    )
    from gnl.topologies.impairment import kernel_has_netem

    if kernel_has_netem():
        pytest.skip("this kernel has netem, so that the delay is made")
    assert done.returncode == 1 and "no netem" in done.stderr and len(done.stderr.splitlines()) <= 2
    assert (out / "result.json").exists()  # refused before anything was touched


def test_a_full_disk_gives_one_line_and_no_result(tmp_path, photos):
    """A tmpfs of 3 MB, mounted for this process alone, has no room for the images of a run."""
    script = (
        f"mount -t tmpfs -o size=3m none /mnt && exec {' '.join(GNL)} run diamond --images {photos} --codec stub:900 "
        f"--out /mnt/out --duration 3 --set content.size_px=1000 {' '.join(SLOW)}; "
    )
    machine_for_this_test().release()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{script} ls /mnt/out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert processes_of_runs() == []
