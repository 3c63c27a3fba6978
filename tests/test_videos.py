"""Frames of video files; skipped where PyAV is not installed."""

import sys

import numpy as np
import pytest
from PIL import Image

from detrkit.errors import DataError
from detrkit.streaming import Files
from detrkit.streaming.videos import read_video

pytestmark = pytest.mark.fast
GREYS = [20 * number for number in range(12)]


def written(path, size=(64, 48), **options):
    """A video of 12 frames, each of one grey, upper half black; 4 a second."""
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'detrkit[video]'")
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        for grey in GREYS:
            pixels = np.full((size[1], size[0], 3), grey, np.uint8)
            pixels[: size[1] // 2] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv"])
@pytest.mark.parametrize("every", [1, 5])
def test_frames_come_in_their_order(tmp_path, ending, every):
    path = written(tmp_path / f"clip.{ending}")
    files = Files([path], every=every)
    frames = list(files)
    assert [frame.number for frame in frames] == list(range(0, 12, every))
    assert [frame.time for frame in frames] == pytest.approx([number / 4 for number in range(0, 12, every)], abs=0.01)
    assert (files.total, files.still, files.left_out) == (len(frames), False, 0)
    for frame in frames:
        pixels = np.asarray(frame.image).astype(float)
        assert (frame.name, pixels.shape) == (f"clip/{frame.number:06d}", (48, 64, 3))
        assert pixels[30:].mean() == pytest.approx(GREYS[frame.number], abs=6)


def test_a_video_filmed_upright_is_shown_upright(tmp_path):
    """The matrix of an MP4's track says: turn by a quarter, clockwise."""
    path = written(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    matrix = np.frombuffer(bytes(data[start : start + 36]), ">i4").copy()
    assert matrix.tolist() == [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    data[start : start + 36] = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    image = list(read_video(path))[-1].image
    assert image.size == (48, 64)
    left, right = (np.asarray(image)[:, columns].mean() for columns in (slice(0, 20), slice(28, 48)))
    assert left > 150 > 50 > right


@pytest.mark.parametrize(("ending", "options"), [("mp4", {"options": {"movflags": "faststart"}}), ("avi", {})])
def test_a_video_that_is_cut_off_is_kept_to_there(tmp_path, capsys, ending, options):
    path = written(tmp_path / f"clip.{ending}", (320, 240), **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    files = Files([path])
    frames = list(files)
    assert 1 <= len(frames) < 12
    assert files.left_out == 1
    assert f"kept the {len(frames)} frames before it" in capsys.readouterr().err


def test_what_is_no_video_is_named(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'detrkit[video]'")
    for name, data in (("empty.mp4", b""), ("page.mp4", b"<html>"), ("list.mp4", b"#EXTM3U\nhttp://localhost/a.ts\n")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}: not a video, or a damaged one") as caught:
            list(Files([tmp_path / name]))
        assert "\n" not in str(caught.value)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"video")
    with pytest.raises(DataError, match=r"a\.mp4: videos need av, .*pip install 'detrkit\[video\]'"):
        list(Files([tmp_path / "a.mp4"]))
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    files = Files([tmp_path])
    assert [frame.name for frame in files] == ["b"]
    assert files.left_out == 1
