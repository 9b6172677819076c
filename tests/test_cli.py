"""The command line: one clear line and the right status for what is asked wrongly, JSON alone where it is asked for."""

import json
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from gnl.experiments import calibration, cli, out_folder, report, result, run, summary
from gnl.experiments.out_folder import give_to_caller, prepare_out
from gnl.experiments.repeats import RunOptions
from gnl.node_apps.codecs.registry import WEIGHTS_DIR
from gnl.topologies import impairment
from gnl.topologies.errors import MachineError, RunError, UsageError
from gnl.topologies.interrupts import ENDING
from report_run import result_tree


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def gnl(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="gnl")


def refused(done, status, *words):
    """Exit status, one line on stderr that says these words, nothing on stdout."""
    assert done.exit_code == status, (done.exit_code, done.output)
    assert done.stdout == "" and done.stderr.startswith("gnl: ") and done.stderr.count("\n") == 1, done.output
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture
def as_root(monkeypatch):
    """Whatever is refused, is refused before anything needs the rights of root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(run, "require_mininet", lambda: None)
    monkeypatch.setattr(run, "require_iperf3", lambda: None)


WRONG = [
    (["nowhere"], "nowhere", "diamond"),
    (["diamnd"], "did you mean diamond"),
    (["diamond", "--set", "links.s-g.bw=2"], "links.s-g.bw", "bw_mbit"),
    (["diamond", "--set", "colour=red"], "colour", "accepted"),
    (["diamond", "--set", "links.g-s.bw_mbit=2"], "the link is called s-g here"),
    (["diamond", "--set", "nodes.x.role=router"], "nodes.x"),
    (["diamond", "--set", "nodes.g.role=magician"], "magician", "genai"),
    (["diamond", "--set", "links.s-g.bw_mbit=-1"], "-1", "0.1 to 2000"),
    (["diamond", "--set", "links.s-g.bw_mbit=0"], "0.1 to 2000"),
    (["diamond", "--set", "links.s-g.bw_mbit=3000"], "3000", "0.1 to 2000"),
    (["diamond", "--set", "links.s-g.bw_mbit=null"], "links.s-g has no capacity"),
    (["diamond", "--set", "links.s-g.bw_mbit=fast"], "fast", "number"),
    (["diamond", "--set", "links.s-g.bw_mbit=.nan"], "nan"),
    (["diamond", "--set", "links.s-g.bw_mbit"], "KEY=VALUE"),
    (["diamond", "--content", "gif"], "gif", "raw, png or jpeg:Q"),
    (["diamond", "--content", "jpeg:0"], "jpeg:0"),
    (["diamond", "--bpp", "0"], "content.bpp"),
    (["diamond", "--bpp", "nan"], "content.bpp"),
]


@pytest.mark.parametrize(
    "arguments, words", [(case[0], case[1:]) for case in WRONG], ids=[" ".join(case[0]) for case in WRONG]
)
@pytest.mark.parametrize("command", ["run", "analyze"])
def test_a_wrong_scenario_is_one_line_and_status_2_in_both_commands_with_root_or_without(command, arguments, words):
    refused(gnl(command, *arguments), 2, *words)


FILES = {
    "unknown key": ("name: x\nnodes: {}\nlinks: {}\nspeed: 3\n", "unknown key speed"),
    "unknown node": ("name: x\nnodes: {s: {role: source}}\nlinks:\n  s-q: {bw_mbit: 1}\n", "'q', unknown here"),
    "missing capacity": ("name: x\nnodes: {s: {role: source}, d: {role: sink}}\nlinks:\n  s-d: {}\n", "no capacity"),
    "no mapping": ("- 1\n- 2\n", "no scenario"),
    "no YAML": ("name: [x\n", "does not parse at line"),
    "not the diamond": (
        "name: x\nnodes: {s: {role: source}, r: {role: router}, g: {role: genai}, d: {role: sink}}\n"
        "links: {s-r: {bw_mbit: 1}, r-d: {bw_mbit: 1}, s-g: {bw_mbit: 1}}\n",
        "no link between g and d",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, as_root, what):
    text, words = FILES[what]
    (tmp_path / "net.yaml").write_text(text)
    refused(gnl("run", "net.yaml", "--codec", "stub:900", "--out", "out"), 2, words)
    assert not (tmp_path / "out").exists()


USAGE = [
    (["run"], "SCENARIO"),
    (["run", "diamond", "--duration", "0"], "--duration"),
    (["run", "diamond", "--repeat", "0"], "--repeat"),
    (["run", "diamond", "--device", "tpu"], "tpu"),
    (["run", "diamond", "--colour"], "--colour"),
    (["analyze", "diamond", "--content-bytes", "many"], "many"),
    (["analyze", "diamond", "--content-bytes", "-5"], "--content-bytes"),
    (["analyze", "diamond", "--codec", "stub:900", "--catalogue", "nowhere"], "nowhere"),
    (["fly"], "fly"),
]


@pytest.mark.parametrize(
    "arguments, words", [(case[0], case[1:]) for case in USAGE], ids=[" ".join(case[0]) for case in USAGE]
)
def test_a_wrong_option_is_one_line_and_status_2(arguments, words):
    refused(gnl(*arguments), 2, *words)


@pytest.mark.parametrize(
    "codec, words",
    [
        ("nope", "gnl-low"),
        ("jpeg:0", "1 to 100"),
        ("stub:1", "stub:4000"),
        ("compressai:bmshj2018-hyperprior:3:/no/such.pth", "/no/such.pth"),
    ],
)
def test_an_unknown_codec_leaves_no_folder_behind(tmp_path, as_root, codec, words):
    refused(gnl("run", "diamond", "--codec", codec, "--out", "out"), 2, words)
    refused(gnl("analyze", "diamond", "--codec", codec), 2, words)
    assert not (tmp_path / "out").exists()


def test_weights_without_their_record_are_refused(as_root, monkeypatch, tmp_path):
    monkeypatch.setattr("gnl.node_apps.codecs.registry.WEIGHTS_DIR", tmp_path)
    assert WEIGHTS_DIR != tmp_path
    refused(gnl("run", "diamond", "--codec", "gnl-low", "--out", "out"), 2, "gnl-low.json")


@pytest.mark.parametrize("arguments", [["diamond"], ["diamond", "--json"]])
def test_without_root_the_line_says_what_to_type(monkeypatch, arguments, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["gnl", "run", *arguments, "--out", "my out"])
    refused(gnl("run", *arguments), 2, f"gnl run needs root: sudo ./gnl run {' '.join(arguments)} --out 'my out'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root to be without it")
def test_a_process_that_has_really_no_root_is_refused_and_analyses():
    """Everything is imported before root is dropped: the interpreter may lie where only root reads."""
    code = """
import os, sys
import gnl.experiments.analyze, gnl.experiments.images, gnl.controller.plan
from gnl.experiments import cli
from gnl.experiments.sizing import find_sizes
from gnl.topologies.files import load_scenario
find_sizes(load_scenario("diamond", ["content.codec=stub:900"]))
os.chdir("/"); os.environ["XDG_CACHE_HOME"] = "/nonexistent"
os.setgroups([]); os.setegid(65534); os.seteuid(65534)
cli.main(sys.argv[1:], prog_name="gnl")
"""
    done = subprocess.run([sys.executable, "-c", code, "run", "diamond"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (
        2,
        "",
    ) and done.stderr == "gnl: gnl run needs root: sudo ./gnl run diamond\n"
    analysis = [
        sys.executable,
        "-c",
        code,
        "analyze",
        "diamond",
        "--codec",
        "stub:900",
        "--prompt-bytes",
        "900",
        "--json",
    ]
    done = subprocess.run(analysis, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["analytic"]["wire"]["max_flow_bps"] == 12e6


@pytest.fixture
def run_gives(monkeypatch, as_root):
    """Replaces what needs a network: `gnl run` then reports a result that is good, bad, or an error."""

    def gives(tree):
        def running(scenario, options):
            if isinstance(tree, BaseException):
                raise tree
            return options

        monkeypatch.setattr(run, "run", running)
        monkeypatch.setattr(result, "write_result", lambda record: tree)
        monkeypatch.setattr(report, "write_report", lambda out: None)
        monkeypatch.setattr(out_folder, "give_to_caller", lambda out: None)
        monkeypatch.setattr(summary, "render", lambda tree, out: "the tables")

    return gives


@pytest.mark.parametrize("valid", [True, False])
def test_json_is_all_that_stands_on_stdout_and_the_status_is_the_verdict(run_gives, valid):
    tree = {**result_tree(), "valid": valid, "reasons": [] if valid else ["the CPUs were 99% busy"]}
    run_gives(tree)
    done = gnl("run", "diamond", "--json")
    assert json.loads(done.stdout) == tree and done.exit_code == (0 if valid else 1)
    done = gnl("run", "diamond")
    assert done.stdout == "the tables\n" and done.exit_code == (0 if valid else 1)


ENDS = [
    (RunError("link g->d carries 15 Mbit/s here"), 1, "link g->d"),
    (MachineError("mnexec is not on this machine: apt-get install mininet"), 1, "apt-get install"),
    (UsageError("no readable image"), 2, "no readable image"),
    (OSError(28, "No space left on device", "/tmp/x"), 1, "No space left on device: /tmp/x"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize("error, status, words", ENDS, ids=[type(case[0]).__name__ for case in ENDS])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_whatever_stops_a_run_is_one_line_and_never_json(run_gives, error, status, words, options):
    run_gives(error)
    refused(gnl("run", "diamond", *options), status, words)


def test_a_name_that_is_no_text_does_not_break_the_output(run_gives, monkeypatch):
    run_gives(result_tree())
    monkeypatch.setattr(summary, "render", lambda tree, out: "skipped bad\udcff.jpg: not an image")
    done = gnl("run", "diamond")
    assert done.exit_code == 0 and "bad\\udcff.jpg" in done.stdout


def test_options_reach_the_run_and_those_of_an_earlier_result_are_kept(run_gives, monkeypatch, tmp_path):
    got = []
    run_gives(result_tree())
    monkeypatch.setattr(run, "run", lambda scenario, options: got.append((scenario, options)) or options)
    gnl(
        "run",
        "diamond",
        "--duration",
        "7",
        "--repeat",
        "3",
        "--seed",
        "5",
        "--device",
        "cpu",
        "--codec",
        "stub:900",
        "--bpp",
        "0.2",
        "--content",
        "png",
        "--images",
        "photos",
        "--set",
        "links.s-g.bw_mbit=3",
        "--pcap",
        "--out",
        "here",
    )
    ((scenario, options),) = got
    assert (options.duration_s, options.repeat, options.seed, options.device, options.pcap) == (7, 3, 5, "cpu", True)
    assert str(options.out) == "here" and scenario.link("s", "g").bw_mbit == 3
    content = scenario.content
    assert (content.codec, content.bpp, content.format) == ("stub:900", 0.2, "png")
    assert content.images == str(tmp_path / "photos")  # absolute: the result can be run again from anywhere
    gnl("run", "diamond")
    options = got[-1][1]
    default = RunOptions(options.out)
    assert (options.duration_s, options.repeat, options.seed) == (default.duration_s, default.repeat, default.seed)


def test_a_delay_on_a_kernel_without_netem_is_refused_before_anything_is_made(as_root, monkeypatch, tmp_path):
    monkeypatch.setattr(impairment, "kernel_has_netem", lambda: False)
    done = gnl("run", "diamond", "--codec", "stub:900", "--set", "links.g-d.delay_ms=5", "--out", "out")
    refused(done, 1, "links.g-d.delay_ms", "modprobe sch_netem")
    assert not (tmp_path / "out").exists()


def test_a_missing_iperf3_is_said_before_anything_is_made(as_root, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "require_iperf3", calibration.require_iperf3)
    monkeypatch.setattr(calibration.shutil, "which", lambda name: None)
    refused(gnl("run", "diamond", "--codec", "stub:900", "--out", "out"), 1, "apt-get install iperf3")
    assert not (tmp_path / "out").exists()


class TestOut:
    """The folder for the result: an earlier result gives way, nobody's own files do."""

    def test_an_earlier_result_is_gone_before_the_next_run_can_fail(self, tmp_path):
        out = tmp_path / "a" / "out"
        prepare_out(out)
        for name in ("result.json", "report.html", "series.json", "notes.txt"):
            (out / name).write_text("old")
        for name in ("received", "images", "pcap"):
            (out / name).mkdir()
            (out / name / "x").write_text("old")
        prepare_out(out)
        assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == ["notes.txt"]

    @pytest.mark.parametrize("name", ["images", "received", "pcap", "result.json"])
    def test_files_that_no_run_wrote_are_never_removed(self, tmp_path, name):
        mine = tmp_path / name / "photo.jpg" if "." not in name else tmp_path / name
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        with pytest.raises(UsageError, match=f"holds '{name}', which no run of gnl wrote"):
            prepare_out(tmp_path)
        assert mine.read_text() == "mine"

    def test_under_sudo_the_caller_gets_what_the_run_made_and_nothing_else(self, tmp_path, monkeypatch):
        """OUT may be a folder that was there before: `sudo gnl run --out /srv` must not hand over all of /srv."""
        given = []
        monkeypatch.setattr(os, "chown", lambda path, user, group, follow_symlinks: given.append((path, user, group)))
        monkeypatch.setenv("SUDO_UID", "1001")
        monkeypatch.setenv("SUDO_GID", "1002")
        (tmp_path / "theirs").mkdir()
        for out, made in (
            (tmp_path / "theirs", []),
            (tmp_path / "runs" / "1", [tmp_path / "runs" / "1", tmp_path / "runs"]),
        ):
            given.clear()
            prepare_out(out)
            prepare_out(out)  # what was made the first time is still known the second
            (out / "other.txt").write_text("mine")
            (out / "result.json").write_text("{}")
            (out / "images").mkdir()
            (out / "images" / "x.png").write_text("")
            give_to_caller(out)
            assert {path for path, *_ in given} == {
                out / "result.json",
                out / "images",
                out / "images" / "x.png",
                out / ".gnl-out",
                *made,
            }
            assert {owner[1:] for owner in given} == {(1001, 1002)}

    def test_without_sudo_nothing_changes_hands(self, tmp_path, monkeypatch):
        monkeypatch.delenv("SUDO_UID", raising=False)
        monkeypatch.setattr(os, "chown", lambda *_, **__: pytest.fail("chown"))
        prepare_out(tmp_path / "out")
        give_to_caller(tmp_path / "out")

    @pytest.mark.parametrize("out", ["/proc/gnl", "/dev/null/out"])
    def test_a_place_that_cannot_be_written_is_one_clear_line(self, out):
        from pathlib import Path

        with pytest.raises(RunError, match="cannot write to .*give another --out") as caught:
            prepare_out(Path(out))
        assert "\n" not in str(caught.value)

    def test_a_full_disk_is_seen_at_once_and_left_as_it_was(self, tmp_path, monkeypatch):
        from pathlib import Path

        def full(self, data):
            self.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match="No space left on device"):
            prepare_out(tmp_path / "out")
        assert not (tmp_path / "out" / ".space").exists()


def test_help_and_version_are_status_0():
    assert gnl("--help").exit_code == gnl("run", "--help").exit_code == gnl("--version").exit_code == 0
    assert "SCENARIO" in gnl("run", "--help").stdout


def test_an_interrupt_is_repeated_in_case_it_was_lost_in_a_fork():
    for number in ENDING:
        signal.signal(number, cli._terminate)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= cli.REPEAT_INTERRUPT_S
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGALRM)


def test_a_hang_up_that_is_to_be_ignored_stays_ignored(run_gives):
    run_gives(result_tree())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    gnl("run", "diamond")
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
