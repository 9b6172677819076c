"""The decoder service as a process: it answers every prompt once, whatever the prompts or the clients do to it."""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import crashing_codec as bad
import numpy as np
import pytest
from gnl.node_apps.codecs import content
from gnl.node_apps.codecs.interface import Prompt
from gnl.node_apps.codecs.registry import load_codec
from gnl.node_apps.decoder_client import DecoderClient, GenerationRate
from gnl.topologies.errors import MachineError, RunError, UsageError

TESTS = Path(__file__).resolve().parent
WAIT_S = 60.0
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up: run as root")


def command(path, *options):
    return [
        sys.executable, "-m", "gnl.node_apps.decoder_service", "--socket", str(path), "--threads", "1",
        *("--device", "cpu"), *(options or ("--codec-factory", "crashing_codec:make")),
    ]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}


@contextmanager
def service(*options):
    """A running service: its process, its socket's path, and the line that it printed when ready."""
    options = options and ("--codec-factory", "crashing_codec:make", *options)
    with tempfile.TemporaryDirectory(prefix="gnl-") as folder:  # pytest's own paths are too long for a socket
        path = Path(folder) / "decoder"
        # Root's own groups are among what must be given up.
        groups = [0, 4] if os.geteuid() == 0 else None
        process = subprocess.Popen(
            command(path, *options), env=environment(), stdout=subprocess.PIPE, extra_groups=groups
        )
        try:
            yield process, path, json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(WAIT_S)
            process.stdout.close()
        assert process.returncode == 0 and not path.exists()


@pytest.fixture(scope="module")
def shared():
    """One service for the tests that leave it in working order."""
    with service("--batch-timeout-s", "1", "--queue-items", "500", "--worker-memory-mb", "512") as running:
        yield running


def prompt(data, codec_id=200):
    return Prompt(codec_id, 0, (data,))


def shade(value):
    return content.pack(np.full((bad.SIDE_PX, bad.SIDE_PX, 3), value, np.uint8), "raw")


def answers_of(client, prompts, fmt="raw"):
    """Submit all, and return the answers by request id."""
    for number, item in enumerate(prompts):
        client.submit(number, item, fmt)
    answers = [client.receive(WAIT_S) for _ in prompts]
    assert None not in answers
    by_id = {answer.request_id: answer for answer in answers}
    assert len(by_id) == len(prompts), "every prompt is answered once"
    return [by_id[number] for number in range(len(prompts))]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)


def test_ready_line_and_hello_say_what_is_decoded(shared):
    _, path, ready = shared
    assert ready["ready"] is True and ready["device"] == "cpu"
    (codec,) = ready["codecs"]
    assert (codec["name"], codec["codec_id"], codec["weights_id"]) == ("crashing", 200, 0)
    with DecoderClient(path) as client:
        assert client.known == {(200, 0)}


def test_contents_are_what_the_codec_and_the_format_make(shared):
    with DecoderClient(shared[1]) as client:
        raw, png = (answers_of(client, [prompt(b"\x07"), prompt(b"\x63")], fmt) for fmt in ("raw", "png"))
    assert [bytes(answer.body) for answer in raw] == [shade(7), shade(99)]
    assert [content.unpack(bytes(answer.body))[0, 0, 0] for answer in png] == [7, 99]
    assert all(answer.body[0] == content.PNG for answer in png)


def test_slices_arrive_in_order_and_apart(shared):
    with DecoderClient(shared[1]) as client:
        (answer,) = answers_of(client, [Prompt(200, 0, (b"", b"ba", b"", b"d"))])
    assert (answer.reason, answer.message) == ("bitstream", "b'bad' is no prompt of this codec")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(bad.BAD, "bitstream"), (bad.RAISE, "codec"), (bad.HOARD, "memory"), (bad.ABORT, "killed"), (bad.LEAVE, "killed"),
     (bad.HANG, "timeout")],
)
def test_one_bad_prompt_among_many_fails_alone(shared, data, reason):
    with DecoderClient(shared[1]) as client:
        before = client.stats()["failed"].get(reason, 0)
        prompts = [prompt(bytes([n + 1])) for n in range(20)]
        prompts[9] = prompt(data)
        answers = answers_of(client, prompts)
        assert [(n, a.reason) for n, a in enumerate(answers) if a.body is None] == [(9, reason)]
        assert all(bytes(a.body) == shade(n + 1) for n, a in enumerate(answers) if n != 9)
        assert client.stats()["failed"][reason] == before + 1


def test_two_killers_in_one_batch_and_a_second_client_unharmed(shared):
    with DecoderClient(shared[1]) as attacker, DecoderClient(shared[1]) as other:
        for number in range(8):
            attacker.submit(number, prompt(bad.ABORT if number in (2, 5) else b"x"), "raw")
        assert [a.body for a in answers_of(other, [prompt(b"\x05")] * 30)] == [shade(5)] * 30
        answers = [attacker.receive(WAIT_S) for _ in range(8)]
    assert {a.request_id for a in answers if a.body is None} == {2, 5}


def test_restart_is_a_fork_of_the_loaded_service(shared):
    with DecoderClient(shared[1]) as client:
        before = client.stats()
        answers_of(client, [prompt(bad.ABORT)])
        after = client.stats()
    assert after["pid"] == before["pid"] and after["worker_pid"] != before["worker_pid"]
    assert after["restarts"] == before["restarts"] + 2
    assert not alive(before["worker_pid"])


def test_a_killed_worker_is_replaced_though_idle(shared):
    with DecoderClient(shared[1]) as client:
        worker = client.stats()["worker_pid"]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: client.stats()["worker_pid"] != worker)
        assert answers_of(client, [prompt(b"\x05")])[0].body == shade(5)


def test_unknown_codec_and_format_are_answered(shared):
    with DecoderClient(shared[1]) as client:
        answers = answers_of(client, [prompt(b"x", codec_id=9), Prompt(200, 77, (b"x",))])
        assert [a.reason for a in answers] == ["unknown_codec"] * 2
        (answer,) = answers_of(client, [prompt(b"x")], fmt="gif")
        assert answer.reason == "codec" and "gif" in answer.message


def test_overflow_is_answered_at_once_and_counted():
    with service("--queue-items", "5", "--batch", "1") as (_, path, _), DecoderClient(path) as client:
        answers = answers_of(client, [prompt(bad.SLOW)] * 20)
        reasons = [answer.reason for answer in answers]
        assert set(reasons) == {None, "overflow"}
        # Five wait, and at most two batches of one are in the worker.
        assert 5 <= reasons.count(None) <= 8
        assert client.stats()["failed"] == {"overflow": reasons.count("overflow")}


def test_garbage_closes_that_connection_only(shared):
    _, path, _ = shared
    rng = random.Random(1)
    with DecoderClient(path) as client:
        before = client.stats()["counters"].get("malformed_frames", 0)
        attempts = [
            bytes(100), b"GET / HTTP/1.1\r\n\r\n" * 3, rng.randbytes(5000),
            bytes.fromhex("4744 02 00 ffffffff 00000000") + bytes(8),  # meta of 4 GiB
            bytes.fromhex("4744 02 00 00000000 ffffffff") + bytes(8),  # body of 4 GiB
            bytes.fromhex("4744 02 00 00000007 00000000") + bytes(8) + bytes.fromhex("c8 00000000 00 ff"),  # no slices
            bytes.fromhex("4744 01 00 00000000 00000000") + bytes(8),  # HELLO from a client
        ]
        for attempt in attempts:
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(path))
                raw.settimeout(WAIT_S)
                raw.sendall(attempt)
                try:
                    while raw.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    pass
        assert client.stats()["counters"]["malformed_frames"] == before + len(attempts)
        assert answers_of(client, [prompt(b"\x05")])[0].body == shade(5)


def test_a_frame_in_single_bytes_is_understood(shared):
    from gnl.node_apps.decoder_frames import Submission, submit_frame

    with DecoderClient(shared[1]) as client:
        for byte in b"".join(submit_frame(Submission(3, 200, 0, "raw", (b"\x07", b"z")))):
            client._sock.send(bytes([byte]))
        answer = client.receive(WAIT_S)
    assert (answer.request_id, answer.body) == (3, shade(7))


def test_work_of_a_client_that_left_is_dropped_and_counted(shared):
    with DecoderClient(shared[1]) as client:
        before = client.stats()["counters"].get("dropped_by_disconnect", 0)
        with DecoderClient(shared[1]) as leaver:
            for number in range(60):
                leaver.submit(number, prompt(bad.SLOW), "raw")
            wait_until(lambda: client.stats()["running_items"])
        wait_until(lambda: client.stats()["counters"].get("dropped_by_disconnect", 0) > before)
        assert answers_of(client, [prompt(b"\x05")])[0].body == shade(5)
        stats = client.stats()
        assert stats["queue_items"] == stats["queue_bytes"] == stats["running_items"] == 0


def test_a_client_that_does_not_read_stops_only_itself():
    with service("--codec", "stub:8", "--queue-items", "2000") as (_, path, ready):
        image = np.zeros((1024, 1024, 3), np.uint8)
        big = load_codec("stub:8").encode(image)
        with DecoderClient(path) as sleeper, DecoderClient(path) as client:
            for number in range(150):
                sleeper.submit(number, big, "raw")  # 470 MB of contents, unread
            assert answers_of(client, [prompt(b"\x05")] * 10)[0].body == shade(5)
            wait_until(lambda: client.stats()["running_items"] == 0)
            resident_kib = int(Path(f"/proc/{ready['pid']}/status").read_text().split("VmRSS:")[1].split()[0])
            assert resident_kib < 300_000
            sizes = [len(sleeper.receive(WAIT_S).body) for _ in range(150)]
            assert sizes == [3 * 1024 * 1024 + content.PREFIX.size] * 150


def test_rate_is_measured_in_a_closed_loop(shared):
    with DecoderClient(shared[1]) as client:
        rate = client.measure_generation_rate([prompt(b"\x01"), prompt(b"\x02")], "raw", 0.6, in_flight=4, bin_s=0.2)
        decoded = client.stats()["counters"]["decoded"]
        assert len(rate.images_per_bin) == 3 and rate.failed == 0
        assert 0 < sum(rate.images_per_bin) <= decoded
        assert sum(rate.content_bytes_per_bin) == sum(rate.images_per_bin) * len(shade(1))
        assert rate.content_bps == pytest.approx(rate.images_per_s * 8 * len(shade(1)))
        assert rate.images_per_s_min <= rate.images_per_s_median
        with pytest.raises(RunError, match="bitstream"):
            client.measure_generation_rate([prompt(bad.BAD)], "raw", 0.2, in_flight=2, bin_s=0.2)
        with pytest.raises(UsageError):
            client.measure_generation_rate([], "raw", 1.0)
        assert client.receive(0) is None, "nothing is left under way"


def test_a_rate_of_batches_is_that_of_their_slope():
    """Batches of 8 every 0.1 s are 80/s, whatever part of a batch the last second holds."""
    completed_s = tuple(0.1 * (1 + i // 8) for i in range(8 * 33))
    rate = GenerationRate(1.0, (72, 80, 80), (0, 0, 0), 0, completed_s)
    assert rate.images_per_s == pytest.approx(80, rel=0.005)
    assert GenerationRate(1.0, (1, 0), (9, 0), 0, (0.5,)).images_per_s == 0.5


def test_client_says_when_the_service_is_gone():
    with service() as (process, path, _), DecoderClient(path) as client:
        process.terminate()
        with pytest.raises(RunError, match="gone"):
            client.receive(WAIT_S)
        with pytest.raises(MachineError, match="no decoder service"):
            process.wait(WAIT_S)
            DecoderClient(path)


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}


@ROOT
def test_no_privilege_is_left_where_bitstreams_are_read(shared, tmp_path):
    _, path, ready = shared
    with DecoderClient(path) as client:
        stats = client.stats()
        for pid in (stats["pid"], stats["worker_pid"]):
            status = status_of(pid)
            assert "0" not in status["Uid"] + status["Gid"] and status["Groups"] == []
            assert status["NoNewPrivs"] == ["1"]
            assert {status[name][0].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
        secret = Path(path.parent) / "secret"
        secret.write_text("root's own")
        secret.chmod(0o600)
        (answer,) = answers_of(client, [prompt(bad.SECRET + bytes(secret))])
        assert answer.body == shade(0), "the worker read root's file, or became root again"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("victim", ["guard", "service"])
def test_death_of_a_parent_takes_what_is_below_it(victim):
    with tempfile.TemporaryDirectory(prefix="gnl-") as folder:
        path = Path(folder) / "decoder"
        process = subprocess.Popen(
            command(path), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        ready = json.loads(process.stdout.readline())
        client = DecoderClient(path)
        client.submit(1, prompt(bad.HANG), "raw")
        wait_until(lambda: client.stats()["running_items"])
        os.kill(process.pid if victim == "guard" else ready["pid"], signal.SIGKILL)
        wait_until(lambda: not alive(ready["pid"]) and not alive(ready["worker_pid"]))
        _, stderr = process.communicate(timeout=WAIT_S)
        if victim == "service":
            assert process.returncode == 1 and "signal 9" in stderr and not path.exists()
            return
        assert path.exists(), "nobody was left to remove it"
        again = subprocess.Popen(command(path), env=environment(), stdout=subprocess.PIPE)
        assert json.loads(again.stdout.readline())["ready"], "a new service takes the place of a dead one's socket"
        again.terminate()
        again.communicate(timeout=WAIT_S)
        assert again.returncode == 0


def test_the_one_who_started_it_dies_and_so_does_it():
    with tempfile.TemporaryDirectory(prefix="gnl-") as folder:
        starter = (
            "import subprocess, sys, time\n"
            "p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
            "sys.stdout.write(p.stdout.readline().decode())\n"
            "sys.stdout.flush()\n"
            "time.sleep(3600)\n"
        )
        argv = [sys.executable, "-c", starter, *command(Path(folder) / "decoder")]
        process = subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE)
        ready = json.loads(process.stdout.readline())
        process.kill()
        process.communicate(timeout=WAIT_S)
        wait_until(lambda: not alive(ready["pid"]) and not alive(ready["worker_pid"]))


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--codec", "nonsense"], 2, ["nonsense", "accepted are"]),
        (["--codec-factory", "no.such:thing"], 2, ["no.such:thing", "MODULE:FUNCTION"]),
        (["--codec-factory", "crashing_codec:make_broken"], 2, ["make_broken", "KeyError"]),
        (["--codec", "jpeg:50", "--codec", "jpeg:60"], 2, ["jpeg:50", "jpeg:60"]),
        (["--codec", "jpeg:50", "--device", "cuda"], 1, ["CUDA", "--device cpu"]),
        pytest.param(["--codec", "jpeg:50", "--user", "no-such-user"], 2, ["no-such-user"], marks=ROOT),
        pytest.param(["--codec", "jpeg:50", "--user", "root"], 2, ["root"], marks=ROOT),
        ([], 2, ["--codec"]),
    ],
)
def test_what_cannot_be_started_is_one_line_with_the_remedy(options, status, words):
    with tempfile.TemporaryDirectory(prefix="gnl-") as folder:
        argv = [sys.executable, "-m", "gnl.node_apps.decoder_service", "--socket", f"{folder}/decoder", *options]
        done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=WAIT_S)
        assert (done.returncode, done.stdout) == (status, "")
        assert len(done.stderr.splitlines()) == 1 and all(word in done.stderr for word in words), done.stderr
        assert os.listdir(folder) == []


def test_socket_paths_that_cannot_be_served(shared, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("precious")
    for path, words in [(in_the_way, "no socket"), (shared[1], "another decoder"), (Path("/" + "x" * 120), "too long"),
                        (Path("/no/such/folder/decoder"), "cannot bind")]:
        done = subprocess.run(command(path), capture_output=True, text=True, env=environment(), timeout=WAIT_S)
        assert done.returncode in (1, 2) and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert in_the_way.read_text() == "precious"
    with DecoderClient(shared[1]) as client:
        assert answers_of(client, [prompt(b"\x05")])[0].body == shade(5)


def test_fileno_is_readable_when_an_answer_is_there(shared):
    with DecoderClient(shared[1]) as client:
        assert client.receive(0) is None
        client.submit(1, prompt(b"\x05"), "raw")
        assert select.select([client], [], [], WAIT_S)[0] == [client]
        assert next(client.results(WAIT_S)).body == shade(5)
