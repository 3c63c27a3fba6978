"""Decoding of images of every usual kind into 8-bit RGB, the way a person sees them.

What is not plain RGB is brought there by fixed rules:

- orientation: the EXIF tag is applied, once, and is gone from the result;
- transparency (RGBA, LA, palettes and colour keys): laid on white, as browsers and labelling tools show it;
- deep grey (16-bit PNG, ``I;16``, ``I``, 12- to 32-bit TIFF): scaled by the bit depth, never saturated; 32-bit
  integers count as 16-bit where all values fit, which is what mode ``I`` usually carries;
- floats: the smallest full scale of 1, 255 and 65535 that holds the largest value;
- `read_image` gives the first frame of an animation, `read_frames` all; colour profiles are not applied.

Pillow's global settings are neither used nor changed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_CUR
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.errors import DataError

# Decoded as RGB, 256 MiB: where Pillow, too, begins to warn.
MAX_PIXELS = 2**28 // 3

# What data sets consist of. Pillow's other readers (EPS runs a program, for example) are more danger than use.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2")

ANIMATED = ("GIF", "PNG", "WEBP", "TIFF")  # of other formats, further frames are previews or depth maps

_ORIENTATION = 0x0112
_TIFF_KIND, _TIFF_PREVIEW_OR_MASK = 254, 0b101
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLE_FORMAT = 256, 257, 258, 339
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# the same for a point of the image: whether x and y change places, then whether x and y count from the other end
_MOVES = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_FULL_SCALES = {"I": (2**16 - 1, 2**31 - 1, 2**32 - 1), "F": (1, 2**8 - 1, 2**16 - 1)}


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB, orientation applied.

    Raises:
        DataError: no such file, not an image, damaged, or more than `MAX_PIXELS`; names the path.
    """
    with _opened(path) as image:
        return _to_rgb(image, path)


class Picture(NamedTuple):
    """One picture of a file that may hold many.

    Attributes:
        image: RGB.
        number: its place in the file, from 0.
        total: pictures of the file, as it tells; None where it does not.
        time: seconds from the beginning; None for pages, and where the file does not tell.
    """

    image: Image.Image
    number: int = 0
    total: int | None = 1
    time: float | None = None


def read_frames(path: str | Path, every: int = 1) -> Iterator[Picture]:
    """All pictures of an image file, one by one: frames of an animation as they are shown, pages of a TIFF.

    Args:
        path: the file; of formats that hold a single picture, it is that of `read_image`.
        every: give only each so-manyth, beginning with the first.

    Raises:
        DataError: as `read_image`; in the middle, where a frame is damaged.
    """
    with _opened(path) as image:
        places, elapsed = _places(image), 0.0
        for number, place in enumerate(places):
            if place:
                image.seek(place)
            image.load()  # also those that are left out: they lie below the next, and tell how long they are shown
            timed = len(places) > 1 and image.format != "TIFF"
            if number % every == 0:
                yield Picture(_to_rgb(image, path), number, len(places), round(elapsed, 6) if timed else None)
            elapsed += image.info.get("duration", 0) / 1000


def _places(image: Image.Image) -> list[int]:
    """Which frames of an open file are pictures by themselves."""
    places = range(getattr(image, "n_frames", 1) if image.format in ANIMATED else 1)
    if len(places) == 1 or image.format != "TIFF":
        return list(places)
    own = []
    for place in places:
        image.seek(place)
        if not image.tag_v2.get(_TIFF_KIND, 0) & _TIFF_PREVIEW_OR_MASK:  # type: ignore[attr-defined]
            own.append(place)
    image.seek(0)
    return own or [0]


class Header(NamedTuple):
    """What the header of an image file tells.

    Attributes:
        size: (height, width) in pixels as the image is shown, orientation applied.
        orientation: EXIF orientation, 1 to 8; from 5 on, height and width of the stored pixels are the other way round.
    """

    size: tuple[int, int]
    orientation: int = 1


def image_header(path: str | Path) -> Header:
    """Size and orientation of an image file; decodes no pixels.

    Raises:
        DataError: no such file, not an image, or more than `MAX_PIXELS`; names the path.
    """
    with _opened(path) as image:
        width, height = image.size
        if image.format == "TIFF":  # some versions of Pillow turn the size of a TIFF by themselves
            width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]  # type: ignore[attr-defined]
        orientation = _orientation(image, of_header=True)
        return Header((width, height) if orientation >= 5 else (height, width), orientation)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file as it is shown, orientation applied; reads the header, decodes no pixels.

    Raises:
        DataError: no such file, not an image, or more than `MAX_PIXELS`; names the path.
    """
    return image_header(path).size


def turned_boxes(boxes: NDArray[np.float64], header: Header) -> NDArray[np.float64]:
    """Boxes [N, 4], (x0, y0, x1, y1) in the pixels as they are stored -> the same in the image as it is shown."""
    swap, *ends = _MOVES.get(header.orientation, (False, False, False))
    boxes = boxes[:, [1, 0, 3, 2]] if swap else boxes
    for axis, (side, from_other_end) in enumerate(zip(header.size[::-1], ends, strict=True)):
        if from_other_end:
            boxes = boxes.copy()
            boxes[:, [axis, axis + 2]] = side - boxes[:, [axis + 2, axis]]
    return boxes


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring a Pillow image of any mode to RGB, orientation applied; the image given stays as it is.

    Raises:
        DataError: not a Pillow image, empty, damaged, too large, or with values of no known brightness (negative, NaN).
    """
    if not isinstance(image, Image.Image):
        raise DataError(
            "not an image",
            value=type(image).__name__,
            expected="a PIL image",
            hint=("PIL.Image.fromarray makes one of an array"),
        )
    with _blaming(getattr(image, "filename", None) or None):
        return _to_rgb(image, None)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The image with its header read; whatever goes wrong inside the block names the path."""
    with _blaming(path):
        if not Path(path).is_file():  # before opening: a pipe would wait for ever
            raise DataError("no such image file", path=path)
        # By handle, since Pillow maps named files into memory and then garbles turned TIFFs.
        with Path(path).open("rb") as file, Image.open(file, formats=FORMATS) as image:
            _check_size(image, path)
            yield image


@contextmanager
def _blaming(path: str | Path | None) -> Iterator[None]:
    """Turn every failure into a DataError of one line that names the path."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            "image is too large", path=path, value=f"({error})", expected=(f"at most {MAX_PIXELS} pixels")
        ) from None
    except Image.UnidentifiedImageError:
        what = "file is empty" if path and not Path(path).stat().st_size else "not an image, or a damaged one"
        raise DataError(what, path=path, expected=f"one of {', '.join(FORMATS)}") from None
    except Exception as error:  # on damaged files, Pillow's readers raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError("image cannot be read", path=path, value=f"({reason})") from error


def _to_rgb(image: Image.Image, path: str | Path | None) -> Image.Image:
    _check_size(image, path)
    image.load()
    orientation = _orientation(image)
    if image.mode[0] in "IF":
        rgb = Image.fromarray(_brightness(image, path)).convert("RGB")
    elif image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    rgb.info = {}  # or the orientation would be applied again by the next who looks
    return rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb


def _check_size(image: Image.Image, path: str | Path | None) -> None:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(
            "image is too large" if width * height else "image is empty",
            path=path,
            value=f"({width} x {height})",
            expected=f"1 to {MAX_PIXELS} pixels",
        )


def _brightness(image: Image.Image, path: str | Path | None) -> np.ndarray:
    """A deep grey image as uint8 [H, W]."""
    values = np.asarray(image)
    bits, signed = _tiff_depth(image)
    if bits == 32 and not signed and image.mode == "I":
        values = values.view(np.uint32)
    low, high = values.min(), values.max()
    scales = _FULL_SCALES.get(image.mode, (2**16 - 1,))
    if 0 < bits < 32:
        scales = (2 ** (bits - signed) - 1,)
    fitting = [scale for scale in scales if high <= scale]  # a NaN fits none
    if not fitting or not low >= 0:
        raise DataError(
            "pixels without a known brightness",
            path=path,
            value=f"({low:g} to {high:g})",
            expected=f"0 to one of {scales}",
        )
    return np.rint(values * (255.0 / fitting[0])).astype(np.uint8)


def _tiff_depth(image: Image.Image) -> tuple[int, bool]:
    """Bits of a grey TIFF and whether one is a sign; (0, False) for anything else."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (0,))
    return int(bits[0]), tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == 2


def _orientation(image: Image.Image, *, of_header: bool = False) -> int:
    """EXIF orientation, 1 to 8; 1 where the EXIF data are damaged, as every viewer has it."""
    try:
        # Pillow decodes a whole PNG to learn whether EXIF data follow the pixels.
        spare = of_header and image.format == "PNG" and not _metadata_follow_pixels(image.fp)  # type: ignore[attr-defined]
        exif = Image.Image.getexif(image) if spare else image.getexif()
        orientation = int(exif.get(_ORIENTATION, 1))
        return orientation if orientation in _TURNS else 1
    except Exception:
        return 1


def _metadata_follow_pixels(file: IO[bytes]) -> bool:
    """Whether chunks that may hold EXIF data follow the pixels of a PNG; leaves the file where it was."""
    before = file.tell()
    file.seek(8)
    kinds = []
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        kinds.append(kind)
        file.seek(size + 4, SEEK_CUR)
    file.seek(before)
    return b"IDAT" in kinds and any(kind in _METADATA for kind in kinds[kinds.index(b"IDAT") :])
