"""Sequences: every frame of what ffmpeg wrote, its own times, and clear words for what is no sequence."""

from fractions import Fraction

import av
import numpy as np
import pytest
from gnl.experiments import sequences
from gnl.experiments.sequences import load_sequence
from gnl.topologies.errors import UsageError
from PIL import Image

HEIGHT, WIDTH = 48, 64


def shade(number, height=HEIGHT, width=WIDTH):
    return np.full((height, width, 3), 20 + 20 * number, np.uint8)


def write_video(path, times, rate=25):
    """A video whose frame number n is a flat grey of 20 + 20 n, shown at times[n] seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_s in enumerate(times):
            frame = av.VideoFrame.from_ndarray(shade(number), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(shade(number)).save(folder / f"{number:02d}.png")
    (folder / "notes.txt").write_text("no frame")
    return folder


class TestVideos:
    def test_every_frame_comes_in_order_with_its_time(self, tmp_path):
        sequence = load_sequence(write_video(tmp_path / "v.mp4", [n / 25 for n in range(8)]))
        assert [round(float(image.mean()) / 20) - 1 for image in sequence.images] == list(range(8))
        assert [frame.time_s for frame in sequence.frames] == pytest.approx([n / 25 for n in range(8)], abs=1e-3)
        assert sequence.frames_per_s == pytest.approx(25, rel=1e-3) and sequence.notes == ()
        assert sequence.images[0].shape == (HEIGHT, WIDTH, 3) and sequence.images[0].dtype == np.uint8

    def test_a_rate_that_varies_is_kept_and_said(self, tmp_path):
        times = [0, 0.04, 0.08, 0.2, 0.24, 0.5]
        sequence = load_sequence(write_video(tmp_path / "v.mp4", times))
        assert [frame.time_s for frame in sequence.frames] == pytest.approx(times, abs=2e-3)
        assert "its frame rate varies: frames last 40.0 to 260.0 ms" in sequence.notes[0]
        assert sequence.frames_per_s == pytest.approx(10, rel=0.01)

    def test_another_rate_a_limit_and_a_scale_can_be_asked_for(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", [n / 25 for n in range(8)])
        sequence = load_sequence(path, limit=3, frames_per_s=10, within_px=32)
        assert [frame.time_s for frame in sequence.frames] == pytest.approx([0, 0.1, 0.2])
        assert sequence.images[2].shape == (24, 32, 3) and sequence.images[2].mean() == pytest.approx(60, abs=4)

    def test_what_ends_in_the_middle_has_the_frames_before(self, tmp_path):
        rng = np.random.default_rng(0)
        path = tmp_path / "v.avi"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            for _ in range(20):
                noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
            container.mux(stream.encode())
        whole = len(load_sequence(path))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 2 <= len(load_sequence(path)) < whole == 20

    @pytest.mark.parametrize("content", [b"", b"no video at all" * 99, b"\x00\x00\x00\x18ftypmp42" + bytes(200)])
    def test_what_ffmpeg_cannot_read_is_said(self, tmp_path, content):
        (tmp_path / "v.mp4").write_bytes(content)
        with pytest.raises(UsageError, match="v.mp4 (cannot be read as a video|has no pictures)"):
            load_sequence(tmp_path / "v.mp4")

    def test_sound_alone_has_no_pictures(self, tmp_path):
        with av.open(str(tmp_path / "v.wav"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with pytest.raises(UsageError, match="v.wav has no pictures in it"):
            load_sequence(tmp_path / "v.wav")

    def test_one_frame_is_no_sequence(self, tmp_path):
        with pytest.raises(UsageError, match="holds 1 frame: give a sequence of 2 or more"):
            load_sequence(write_video(tmp_path / "v.mp4", [0]))


class TestFolders:
    def test_images_come_in_the_order_of_their_names(self, folder):
        sequence = load_sequence(folder)
        assert [int(image[0, 0, 0]) for image in sequence.images] == [20, 40, 60, 80, 100]
        assert sequence.frames_per_s == pytest.approx(25)
        assert load_sequence(folder, frames_per_s=12.5).frames[2].time_s == pytest.approx(0.16)

    def test_it_ends_where_the_size_changes_and_says_so(self, folder):
        Image.fromarray(shade(3, 50, 60)).save(folder / "03.png")
        sequence = load_sequence(folder)
        assert len(sequence) == 3 and sequence.notes == ("frame 3 is 60x50 after 64x48: it ends there",)

    def test_no_more_is_read_than_memory_holds(self, folder, monkeypatch):
        monkeypatch.setattr(sequences, "MAX_BYTES", 3 * HEIGHT * WIDTH * 3)
        assert len(load_sequence(folder, limit=3)) == 3
        with pytest.raises(UsageError, match="over 3 frames, .*: read fewer, or scale them down"):
            load_sequence(folder)

    def test_a_damaged_frame_is_named(self, folder):
        (folder / "02.png").write_bytes(b"nothing")
        with pytest.raises(UsageError, match=r"02\.png: .*mend or remove that file"):
            load_sequence(folder)

    def test_what_is_no_sequence_is_said(self, tmp_path, folder):
        (tmp_path / "empty").mkdir()
        for source, options, said in (
            (tmp_path / "empty", {}, "empty holds no images"),
            (tmp_path / "absent", {}, "absent is not there"),
            (folder, {"limit": 1}, "1 frames of .*: give 2 or more"),
            (folder, {"frames_per_s": float("nan")}, "nan frames/s: give a number above 0"),
        ):
            with pytest.raises(UsageError, match=said):
                load_sequence(source, **options)
