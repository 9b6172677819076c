"""`gnl test` on a small checkout of its own: both halves run, and a failure in either counts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gnl.experiments.run_tests import run_tests
from gnl.topologies.errors import UsageError

CONFTEST = Path(__file__).with_name("conftest.py")
UNIT = "def test_unit():\n    assert {unit}\n"
EMULATION = "import pytest\n@pytest.mark.emulation\ndef test_emulation():\n    assert {emulation}\n"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "tests").mkdir()
    shutil.copy(CONFTEST, tmp_path / "tests")
    markers = '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["emulation: sends packets"]\n'
    (tmp_path / "pyproject.toml").write_text(markers)
    return tmp_path


def run(checkout, *arguments, unit=True, emulation=True, as_root=True):
    (checkout / "tests" / "test_unit.py").write_text(UNIT.format(unit=unit))
    (checkout / "tests" / "test_emulation.py").write_text(EMULATION.format(emulation=emulation))
    # The conftest of the small checkout must see root and mnexec, or not, whoever runs this test.
    (checkout / "sitecustomize.py").write_text(
        f"import os, shutil\nos.geteuid = lambda: {0 if as_root else 1000}\n"
        "shutil.which = lambda name, **_: '/usr/bin/' + name\n"
    )
    program = f"""
import sys
from pathlib import Path
from gnl.experiments.run_tests import run_tests
sys.exit(run_tests({list(arguments)!r}, Path({str(checkout)!r})))
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_both_halves_run_leave_nothing_and_end_with_pytests_summary(checkout):
    before = {path.name for path in checkout.iterdir()}
    status, out = run(checkout)
    assert status == 0
    assert {path.name for path in checkout.iterdir()} - before <= {"sitecustomize.py", "__pycache__"}
    assert "unit tests: 1 passed" in out and "emulation tests: 1 passed" in out
    assert "1 passed, 1 deselected" in out.splitlines()[-1]


@pytest.mark.parametrize("unit, emulation", [(False, True), (True, False)])
def test_a_failure_in_either_half_counts_and_both_run(checkout, unit, emulation):
    status, out = run(checkout, unit=unit, emulation=emulation)
    assert status == 1
    assert f"unit tests: 1 {'passed' if unit else 'failed'}" in out
    assert f"emulation tests: 1 {'passed' if emulation else 'failed'}" in out


def test_without_root_emulation_is_skipped_and_says_why(checkout):
    status, out = run(checkout, "-rs", emulation=False, as_root=False)
    assert status == 0 and "needs root: sudo ./gnl test" in out and "emulation tests: 1 skipped" in out


def test_arguments_go_to_pytest_and_a_half_with_nothing_selected_is_no_failure(checkout):
    status, out = run(checkout, "tests/test_unit.py", emulation=False)
    assert status == 0 and "unit tests: 1 passed" in out
    assert run(checkout, "-k", "no_such_test")[0] == 5


def test_outside_a_checkout_it_says_so(tmp_path):
    with pytest.raises(UsageError, match="works in a checkout"):
        run_tests([], tmp_path)
