"""Files that appear whole or not at all, where cp would have put them."""

import os
import signal
import stat
from pathlib import Path

import pytest
from gnl.experiments import whole_file
from gnl.experiments.whole_file import require_place, write_whole
from gnl.topologies.errors import UsageError


def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", b"data")
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == b"data" and stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["new"]


def test_a_file_that_was_there_keeps_its_mode(tmp_path):
    path = tmp_path / "old"
    path.write_bytes(b"a long text of before")
    path.chmod(0o600)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_to_and_not_replaced():
    write_whole(Path("/dev/null"), b"data")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left.*/dev/full"):
        write_whole(Path("/dev/full"), b"data")


def test_a_pipe_is_written_to_by_the_name_of_its_descriptor():
    reading, writing = os.pipe()
    write_whole(Path(f"/dev/fd/{writing}"), b"data")
    assert os.read(reading, 9) == b"data"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_what_stops_the_writing_leaves_what_was_there(tmp_path, monkeypatch, error, step):
    (tmp_path / "x").write_bytes(b"old")

    def stops(self, *_):
        if step == "write_bytes":
            self.touch()
        raise error

    monkeypatch.setattr(*((Path, step) if step == "write_bytes" else (whole_file.os, step)), stops)
    with pytest.raises(type(error)) as caught:
        write_whole(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"
    if isinstance(error, OSError):
        assert caught.value.filename == str(tmp_path / "x")


def test_a_signal_waits_until_the_file_is_whole(tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def interrupted(self, data):
        os.kill(os.getpid(), signal.SIGINT)
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"new"


def test_a_file_that_may_not_be_written_is_left_alone(tmp_path, monkeypatch):
    """Renaming over it would only need the folder's rights; root, who runs tests, may write anything."""
    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_places_where_no_file_can_go(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"a photo")
    (tmp_path / "link").symlink_to("photo.png")
    for path, says in ((tmp_path, "is a folder"), (tmp_path / "no" / "x", "no folder"), (tmp_path / "link", "is read")):
        with pytest.raises(UsageError, match=says):
            require_place(path, tmp_path / "photo.png")
    require_place(tmp_path / "new", tmp_path / "photo.png")
