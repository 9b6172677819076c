"""The launcher's set-up, with a stand-in for Python and apt-get: what it does when, and what it says when it cannot."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
# Acts as python3 and as .venv/bin/python: notes each call, and fails as PIP_SAYS tells it to.
PYTHON = """#!/bin/bash
if [[ $1 == -V ]]; then echo "Python $(cat "$STUBS/version")"; exit; fi
while [[ $1 == -I || $1 == -P ]]; do shift; done
if [[ $1 == -c ]]; then
    [[ $2 == *ensurepip* && -e $STUBS/no-ensurepip ]] && exit 1
    [[ $2 == *version_info\\[:2\\]\\ \\<=* && -e $STUBS/old ]] && exit 1
    [[ $2 == *print* ]] && echo 3.11
    exit 0
fi
echo "$*" >>"$STUBS/calls"
case "$1 $2" in
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
"-m pip")
    [[ "$*" == *requirements.txt* ]] || exit 0
    echo "Collecting torch==9.9"
    if [[ -e $STUBS/pip-waits ]]; then touch "$STUBS/pip-runs"; while [[ -e $STUBS/pip-waits ]]; do sleep 0.02; done; fi
    if [[ -e $STUBS/pip-says ]]; then cat "$STUBS/pip-says"; exit 1; fi ;;
"-m gnl.experiments.cli") shift 2; echo "cli: $*"; exit 7 ;;
esac
"""
APT = """#!/bin/bash
echo "${0##*/} $*" >>"$STUBS/calls"
if [[ -e $STUBS/apt-says ]]; then cat "$STUBS/apt-says"; exit 100; fi
[[ "$*" == *mininet* ]] && cp "$STUBS/bin/tool" "$STUBS/bin/mnexec"
exit 0
"""
TOOLS = ("mnexec", "iperf3", "tcpdump", "ethtool", "nft", "ip", "tc", "ifconfig")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="apt-get is root's: sudo ./gnl test")


class Machine:
    """A checkout and a PATH on which every tool of the set-up is a stand-in."""

    def __init__(self, folder: Path) -> None:
        self.stubs, self.checkout = folder / "stubs", folder / "checkout"
        (self.stubs / "bin").mkdir(parents=True)
        self.checkout.mkdir()
        for name in ("gnl", "setup.py", "pyproject.toml"):
            shutil.copy2(CHECKOUT / name, self.checkout)
        (self.checkout / "requirements.txt").write_text("# pins\ntorch==9.9  # tensors\n")
        (self.stubs / "version").write_text("3.11.9")
        self.write("python3", PYTHON)
        for name in ("apt-get", "dpkg"):
            self.write(name, APT)
        for name in (*TOOLS, "tool"):
            self.write(name, "#!/bin/sh\n")
        # Only these of the real machine, so that what it has installed does not matter.
        for name in (
            "bash",
            "cat",
            "chown",
            "cp",
            "flock",
            "mkdir",
            "mv",
            "readlink",
            "rm",
            "sleep",
            "tail",
            "touch",
            "uname",
            "wc",
        ):
            (self.stubs / "bin" / name).symlink_to(shutil.which(name))

    def write(self, name: str, text: str) -> None:
        path = self.stubs / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def tell(self, name: str, text: str = "") -> None:
        (self.stubs / name).write_text(text)

    def untell(self, name: str) -> None:
        (self.stubs / name).unlink()

    def calls(self) -> list[str]:
        """What was called since this was last asked."""
        path = self.stubs / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def start(self, *arguments: str, checkout: Path | None = None) -> subprocess.Popen:
        environment = {"PATH": f"{self.stubs}/bin", "STUBS": str(self.stubs), "HOME": str(self.stubs)}
        return subprocess.Popen(
            [(checkout or self.checkout) / "gnl", *arguments],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=self.stubs,
        )

    def use(self, *arguments: str, checkout: Path | None = None) -> tuple[int, str, str]:
        process = self.start(*arguments, checkout=checkout)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.stubs / name).exists():
            assert time.monotonic() < deadline, f"{name} never came"
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def made_anew(calls: list[str]) -> bool:
    return any("-m venv" in call for call in calls)


def pip_ran(calls: list[str]) -> bool:
    return any("-m pip" in call for call in calls)


def test_first_use_sets_up_and_says_what_then_runs_the_command_line(machine):
    status, out, err = machine.use("analyze", "a b")
    assert (status, out) == (7, "cli: analyze a b\n")
    assert "gnl:   torch 9.9: tensors\n" in err and "environment" in err
    assert made_anew(machine.calls())


def test_second_use_touches_nothing_and_says_nothing(machine):
    machine.use("analyze")
    machine.calls()
    assert machine.use("analyze") == (7, "cli: analyze\n", "")
    assert machine.calls() == ["-m gnl.experiments.cli analyze"]


def test_it_works_from_any_folder_and_through_a_link(machine, tmp_path):
    machine.use("codecs")
    machine.calls()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "gnl").symlink_to("../checkout/gnl")
    assert machine.use("codecs", checkout=tmp_path / "elsewhere") == (7, "cli: codecs\n", "")


def test_changed_requirements_are_installed_into_what_is_there(machine):
    machine.use("codecs")
    machine.calls()
    (machine.checkout / "requirements.txt").write_text("# pins\ntorch==9.10\n")
    machine.use("codecs")
    calls = machine.calls()
    assert pip_ran(calls) and not made_anew(calls)


def test_another_python_version_makes_the_environment_anew(machine):
    machine.use("codecs")
    machine.calls()
    machine.tell("version", "3.12.1")
    machine.use("codecs")
    assert made_anew(machine.calls())


def test_a_moved_checkout_makes_the_environment_anew(machine, tmp_path):
    machine.use("codecs")
    machine.calls()
    shutil.move(machine.checkout, tmp_path / "moved")
    assert machine.use("codecs", checkout=tmp_path / "moved")[0] == 7
    assert made_anew(machine.calls())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_set_up_is_made_anew_by_the_next_use(machine, number):
    machine.tell("pip-waits")
    process = machine.start("codecs")
    machine.wait_for("pip-runs")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    assert number == signal.SIGKILL or "run it again" in err
    machine.untell("pip-waits")
    machine.calls()
    assert machine.use("codecs")[:2] == (7, "cli: codecs\n")
    assert made_anew(machine.calls())


def test_two_at_once_set_up_once(machine):
    machine.tell("pip-waits")
    first = machine.start("codecs")
    machine.wait_for("pip-runs")
    second = machine.start("analyze")
    assert "waiting for it" in second.stderr.readline()
    machine.untell("pip-waits")
    assert first.communicate(timeout=30)[0] == "cli: codecs\n"
    assert second.communicate(timeout=30)[0] == "cli: analyze\n"
    assert sum("-m venv" in call for call in machine.calls()) == 1


@pytest.mark.parametrize(
    "said, remedy",
    [
        ("ERROR: Temporary failure in name resolution", "no network: connect"),
        ("OSError: [Errno 28] No space left on device", "disk is full: free 3 GB"),
        ("ERROR: No matching distribution found for torch==9.9", "Python 3.11 or 3.12"),
        ("error: command 'gcc' failed: No such file or directory", "apt-get install g++"),
        ("Segmentation fault", ".gnl-setup.log say why"),
    ],
)
def test_failure_is_one_line_with_the_remedy_and_the_next_use_starts_anew(machine, said, remedy):
    machine.tell("pip-says", f"some\nnoise\n{said}\n")
    status, out, err = machine.use("codecs")
    last = err.splitlines()[-1]
    assert (status, out) == (1, "") and remedy in last and last.startswith("gnl: pip install failed")
    machine.untell("pip-says")
    machine.calls()
    assert machine.use("codecs")[0] == 7
    assert made_anew(machine.calls())


def test_an_environment_made_by_somebody_else_is_left_alone(machine):
    (machine.checkout / ".venv").mkdir()
    (machine.checkout / ".venv" / "precious").write_text("mine")
    status, _, err = machine.use("codecs")
    assert status == 1 and "move it away" in err
    assert (machine.checkout / ".venv" / "precious").read_text() == "mine"


def test_a_python_of_another_version_is_refused_with_the_range(machine):
    machine.tell("old")
    for name in ("python3.11", "python3.12"):
        machine.write(name, PYTHON)
    status, _, err = machine.use("codecs")
    assert status == 1 and "Python 3.11 or 3.12 is needed, and here is Python 3.11.9" in err
    assert not made_anew(machine.calls())


@pytest.mark.skipif(os.geteuid() == 0, reason="root installs the package instead")
def test_without_root_a_missing_venv_package_is_named(machine):
    machine.tell("no-ensurepip")
    status, _, err = machine.use("codecs")
    assert status == 1 and "sudo apt-get install python3.11-venv" in err


@needs_root
def test_root_gets_the_missing_packages_only_and_without_recommended_ones(machine):
    (machine.stubs / "bin" / "mnexec").unlink()
    machine.use("codecs")
    installed = [call for call in machine.calls() if call.startswith("apt-get") and " install " in call]
    assert installed and all(call.endswith("install --no-install-recommends mininet") for call in installed)
    machine.use("run")
    assert not any(call.startswith("apt-get") for call in machine.calls())


@needs_root
def test_a_package_that_goes_missing_later_is_brought_back_by_the_next_run_only(machine):
    machine.use("codecs")
    (machine.stubs / "bin" / "mnexec").unlink()
    machine.calls()
    machine.use("analyze")
    assert machine.calls() == ["-m gnl.experiments.cli analyze"]
    machine.use("run")
    assert any("install --no-install-recommends mininet" in call for call in machine.calls())


@needs_root
@pytest.mark.parametrize(
    "said, remedy",
    [
        ("E: Could not get lock /var/lib/dpkg/lock-frontend", "another package manager is at work"),
        ("E: Unable to locate package mininet", "add-apt-repository universe"),
        # apt-get update ends well without a network, and only the installation then fails.
        ("W: Failed to fetch http://x/y  Temporary failure resolving 'x'\nE: Unable to locate package", "no network"),
    ],
)
def test_packages_that_cannot_be_had_stop_a_run_but_not_an_analysis(machine, said, remedy):
    (machine.stubs / "bin" / "mnexec").unlink()
    machine.tell("apt-says", said + "\n")
    status, out, err = machine.use("analyze")
    assert (status, out) == (7, "cli: analyze\n") and remedy in err
    status, out, err = machine.use("run", "diamond")
    assert (status, out) == (1, "") and remedy in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("gnl: apt-get install mininet failed")


@needs_root
def test_root_gets_the_venv_package_of_its_python(machine):
    machine.tell("no-ensurepip")
    machine.use("codecs")
    assert any("install --no-install-recommends python3.11-venv" in call for call in machine.calls())


def test_the_shell_finds_no_fault_with_the_scripts():
    for script in ("gnl", ".ci/run"):
        assert subprocess.run(["bash", "-n", CHECKOUT / script]).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", CHECKOUT / "gnl", CHECKOUT / ".ci/run"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_python_range_is_the_same_everywhere():
    launcher, project = (CHECKOUT / "gnl").read_text(), (CHECKOUT / "pyproject.toml").read_text()
    assert '"3.11 or 3.12"' in launcher and "(3, 11) <= sys.version_info[:2] <= (3, 12)" in launcher
    assert 'requires-python = ">=3.11,<3.13"' in project
    from gnl.experiments.doctor import PYTHON_RANGE

    assert PYTHON_RANGE == ((3, 11), (3, 12)) and PYTHON_RANGE[0] <= sys.version_info[:2] <= PYTHON_RANGE[1]
