"""Images: every mode and depth comes out as the RGB a person sees; every fault is one line that names the file."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detrkit.errors import DataError
from detrkit.images import MAX_PIXELS, image_header, image_size, read_image, to_rgb, turned_boxes

pytestmark = pytest.mark.fast

ORIENTATION = 0x0112
RAMP = (np.arange(20 * 40).reshape(20, 40) % 251).astype(np.uint8)


def first_row(image):
    return np.asarray(image)[0, :, 0].tolist()


def turned(pixels, orientation):
    """EXIF 2.3, table 4: where the 0th row and column of the stored image are shown."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].T,
        8: np.rot90(pixels),
    }[orientation]


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".webp", {"lossless": True}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".jpg", {}),
    ],
)
def test_orientation_is_applied_once(tmp_path, suffix, options, orientation):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RAMP // 64 * 64).resize((400, 200), 0).save(path, exif=exif(orientation), **options)
    expected = turned(np.asarray(Image.fromarray(RAMP // 64 * 64).resize((400, 200), 0)), orientation)
    image = read_image(path)
    assert image_size(path) == expected.shape == (image.height, image.width)
    assert np.abs(np.asarray(image)[..., 0].astype(int) - expected).mean() < (8 if suffix == ".jpg" else 1e-9)
    assert to_rgb(image).tobytes() == image.tobytes(), "applied a second time"
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        assert to_rgb(opened).tobytes() == image.tobytes()


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "PNG", exif=exif(6))
    data = buffer.getvalue()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    path = tmp_path / "late.png"
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert image_size(path) == (40, 20)
    assert read_image(path).size == (20, 40)


def test_size_comes_from_the_header_alone(tmp_path):
    for suffix in (".png", ".jpg", ".bmp"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:1500])
        assert image_size(path) == (200, 300)
        with pytest.raises(DataError, match=f"a{suffix}"):
            read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_the_image(tmp_path, orientation):
    pixels, path = np.zeros((20, 40), np.uint8), tmp_path / "a.png"
    pixels[3:8, 5:25] = 255
    Image.fromarray(pixels).save(path, exif=exif(orientation))
    stored = np.array([[5.0, 3, 25, 8], [0, 0, 40, 20]])
    rows, columns = np.nonzero(np.asarray(read_image(path))[..., 0])
    header = image_header(path)
    found = turned_boxes(stored, header)
    assert found[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert found[1].tolist() == [0, 0, *header.size[::-1]]
    assert stored.tolist() == [[5, 3, 25, 8], [0, 0, 40, 20]], "the boxes given are left as they are"


DEEP = np.array([[0, 32768, 65535, 256]])


@pytest.mark.parametrize(
    "array",
    [
        DEEP.astype(np.uint16),
        DEEP.astype(">u2"),
        DEEP.astype(np.int32),
        (DEEP * 32768).astype(np.int32),
        DEEP.astype(np.float32),
        (DEEP / 257).astype(np.float32),
        (DEEP / 65535).astype(np.float32),
    ],
)
@pytest.mark.parametrize("suffix", [None, ".png", ".tif"])
def test_deep_grey_is_scaled_by_its_depth(tmp_path, array, suffix):
    image = Image.fromarray(array)
    if suffix == ".png" and image.mode[:2] != "I;":
        pytest.skip("PNG holds no such image")
    if suffix:
        image.save(tmp_path / f"a{suffix}")
        image = read_image(tmp_path / f"a{suffix}")
    assert first_row(to_rgb(image)) == [0, 128, 255, 1]


def test_sixteen_bit_colour(tmp_path):
    rows = b"\0" + struct.pack(">6H", 65535, 32768, 0, 256, 65280, 511)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )
    assert np.abs(np.asarray(read_image(path)).astype(int) - [[[255, 128, 0], [1, 254, 1]]]).max() <= 1


def palette(transparency=None):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def two(mode, first, second):
    image = Image.new(mode, (2, 1), first)
    image.putpixel((1, 0), second)
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (two("1", 0, 1), [(0, 0, 0), (255, 255, 255)]),
        (two("L", 10, 250), [(10, 10, 10), (250, 250, 250)]),
        (two("LA", (10, 255), (10, 0)), [(10, 10, 10), (255, 255, 255)]),
        (two("RGBA", (0, 0, 0, 128), (9, 8, 7, 255)), [(127, 127, 127), (9, 8, 7)]),
        (palette(), [(200, 0, 0), (0, 200, 0)]),
        (palette(0), [(255, 255, 255), (0, 200, 0)]),
        (palette(b"\xff\x00"), [(200, 0, 0), (255, 255, 255)]),
        (two("CMYK", (0, 0, 0, 0), (0, 255, 255, 0)), [(255, 255, 255), (255, 0, 0)]),
        (two("YCbCr", (255, 128, 128), (0, 128, 128)), [(255, 255, 255), (0, 0, 0)]),
    ],
)
def test_modes(image, expected):
    before, mode = image.tobytes(), image.mode
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == expected
    assert (image.tobytes(), image.mode) == (before, mode), "the image given is left as it is"


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "HSV",
        "LAB",
        "I",
        "F",
        "I;16",
        "I;16B",
        "I;16L",
    ],
)
def test_every_mode_of_pillow_gives_rgb(mode):
    image = to_rgb(Image.new(mode, (3, 2)))
    assert (image.mode, image.size) == ("RGB", (3, 2))


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1], [-1, 1], [0, 70_000]])
def test_values_without_a_known_brightness(values):
    with pytest.raises(DataError, match="brightness"):
        to_rgb(Image.fromarray(np.array([values], np.float32)))


def test_no_image_at_all():
    for thing in (None, np.zeros((2, 2, 3), np.uint8), "a.jpg"):
        with pytest.raises(DataError, match="not an image"):
            to_rgb(thing)
    with pytest.raises(DataError, match="empty"):
        to_rgb(Image.new("RGB", (0, 5)))


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 500)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000), (MAX_PIXELS + 1, 1), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_bombs_are_refused_and_pillow_keeps_its_limit(tmp_path, monkeypatch, size, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    for read in (read_image, image_size):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DataError, match=r"bomb\.png: image is too large") as raised:
                read(path)
        assert "\n" not in str(raised.value)
        assert raised.value.path == path
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>404</html>",
        b"\xff\xd8\xff\xe0",
        b"\0" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "fake.jpg"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"fake\.jpg: ") as raised:
            read(path)
        assert "\n" not in str(raised.value)


def test_what_is_no_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.png", tmp_path / "nu\0l"):
        for read in (read_image, image_size):
            with pytest.raises(DataError):
                read(path)


FILES = {}
for suffix in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)).save(buffer, suffix)
    FILES[suffix] = buffer.getvalue()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(FILES)), seed=st.integers(0, 2**32 - 1), cut=st.booleans())
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_give_an_image_or_one_line(tmp_path, kind, seed, cut):
    rng, data = np.random.default_rng(seed), bytearray(FILES[kind])
    for _ in range(rng.integers(0, 8)):
        data[rng.integers(len(data))] = rng.integers(256)
    path = tmp_path / "fuzzed"
    path.write_bytes(data[: rng.integers(len(data))] if cut else data)
    for read in (image_size, read_image):
        message = failure(read, path)
        assert message is None or (message.startswith(f"{path}: ") and "\n" not in message)


def failure(read, path):
    try:
        read(path)
    except DataError as error:
        return str(error)
