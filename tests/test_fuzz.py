"""Annotation files that chance has changed: each object is read or told of, nothing hangs, nothing escapes as a crash.

Own small files are mutated, and real ones where they are at hand. Each seed is one file; the message names it.
"""

import json
import re
import shutil
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from layouts import coco, drawn, write_coco, write_voc, write_yolo

from detrkit.datasets.coco import CocoDataset
from detrkit.datasets.voc import VocDataset
from detrkit.datasets.yolo import YoloDataset
from detrkit.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"
DROPPED, SKIPPED = ("dropped",), ("image skipped", "all entries of this id dropped")
SLOWEST = 5  # seconds a file

NUMBERS = [
    "-1",
    "-0",
    "0",
    "41",
    "1e308",
    "-1e308",
    "1e-320",
    "nan",
    "NaN",
    "Infinity",
    "-Infinity",
    "0x10",
    "1,5",
    "5.",
]
NUMBERS += ["+7", "\u0667", "1_0", "12px", "true", "null", '"3"', "[3]", "9" * 30, "9" * 5000, "1e999", "00", "-", ""]
SCRAPS = [b"<", b">", b"</object>", b"<object>", b"&lt;", b"\0", b"\xff", b"<!--", b"<![CDATA[", b"<?xml?>", b"{", b"}"]
SCRAPS += [b"[", b"]", b'"', b"\\", b"\\ud800", b",", b":", b"\n", b"#", b"\xef\xbb\xbf", b"&e;", b"../", b"*a", b"&a "]
VALUES = [None, True, False, 0, -1, 1.5, 1e308, -1e308, float("nan"), float("inf"), 10**30, "", " ", "12", "x", "../x"]
VALUES += [
    "/etc/passwd",
    "\ud800",
    "\0",
    "a\nb",
    [],
    {},
    [[]],
    [1, 2, 3, 4],
    ["1", "2", "3", "4"],
    {"a": {}},
    "x" * 3000,
]


def spans(data, pattern):
    return [match.span() for match in re.finditer(pattern, data)]


def mutated_bytes(data, rng):
    """One change: of a number, a name, some bytes or a stretch of the file."""
    kind = rng.integers(8)
    places = spans(data, rb"-?[0-9][0-9.eE+-]*" if kind < 3 else rb"[A-Za-z_]{2,}")
    low, high = places[rng.integers(len(places))] if kind < 5 and places else sorted(rng.integers(0, len(data) + 1, 2))
    if kind < 3:
        new = NUMBERS[rng.integers(len(NUMBERS))].encode()
    elif kind < 5:
        new = [data[low:high].upper(), data[low:high] + b"x", b"", data[low:high] * 2][rng.integers(4)]
    elif kind == 5:
        high = min(high, low + int(rng.integers(1, 40)))
        new = [b"", data[low:high] * 2][rng.integers(2)]
    elif kind == 6:
        high = min(low + int(rng.integers(0, 3)), len(data))
        new = [bytes([rng.integers(256)]), SCRAPS[rng.integers(len(SCRAPS))]][rng.integers(2)]
    else:
        high = len(data) if rng.integers(2) else high
        new = [b"", data[low:high] * 2, SCRAPS[rng.integers(len(SCRAPS))] * int(rng.integers(1, 3000))][rng.integers(3)]
    return data[:low] + new + data[high:]


def mutated_json(content, rng):
    """One change of the structure: a value replaced, left out, doubled, renamed or nested."""
    holder, key = content, "images"
    for _ in range(rng.integers(0, 5)):
        below = holder[key]
        if not isinstance(below, dict | list) or not below:
            break
        keys = list(below) if isinstance(below, dict) else range(len(below))
        holder, key = below, keys[rng.integers(len(keys))]
        if holder is content["images"] and rng.random() < 0.7:
            holder, key = content, ["annotations", "annotations", "categories"][rng.integers(3)]
    kind = rng.integers(6)
    if kind <= 2:
        holder[key] = deepcopy(VALUES[rng.integers(len(VALUES))])
    elif kind == 3:
        del holder[key]
    elif kind == 4 and isinstance(holder, list):
        holder.insert(int(rng.integers(len(holder) + 1)), deepcopy(holder[key]))
    elif kind == 4:
        holder[key + "x"] = holder.pop(key)
    else:
        for _ in range(int(rng.choice([1, 3, 900, 3000]))):
            holder[key] = [holder[key]]
    return content


def some(rng, change, data):
    for _ in range(rng.integers(1, 4)):
        data = change(data, rng)
    return data


class Files:
    """A data set of which one file is changed: how to read it, and how many objects that file holds."""

    def __init__(self, root):
        self.root = root
        self.images = {f"im{i}": drawn(np.random.default_rng(i), 5) for i in range(4)}

    def changed(self, rng):
        """The path of a file, and its new content."""
        path = self.files[rng.integers(len(self.files))]
        return path, some(rng, mutated_bytes, path.read_bytes())

    def check(self, path, content, data):
        """Hold what was read against what is written."""
        kept, dropped = self.kept(data, path), sum(f.action in DROPPED for f in self.findings(data, path))
        skipped = any(f.action in SKIPPED for f in self.findings(data, path))
        count = self.count(content)
        assert skipped or count is None or kept + dropped >= count, f"{kept} + {dropped} of {count} objects"
        assert count is None or kept <= count
        assert skipped or dropped or count in (None, kept)

    def findings(self, data, path):
        return [found for found in data.findings if found.path == str(path)]

    def kept(self, data, path):
        """Objects kept of a file that belongs to one image."""
        rows = [i for i in range(len(data)) if Path(data.path(i)).stem == path.stem]
        return int(sum(data._ends[i + 1] - data._ends[i] for i in rows))


class Voc(Files):
    reader = VocDataset

    def __init__(self, root):
        super().__init__(root)
        write_voc(root, self.images)
        if (SHARED / "bccd").is_dir():
            for stem in ("BloodImage_00000", "BloodImage_00001"):
                shutil.copyfile(SHARED / f"bccd/Annotations/{stem}.xml", root / f"Annotations/{stem}.xml")
                shutil.copyfile(SHARED / f"bccd/JPEGImages/{stem}.jpg", root / f"JPEGImages/{stem}.jpg")
        self.files = sorted((root / "Annotations").glob("*.xml"))
        (root / "ImageSets/Main/train.txt").write_text("\n".join(path.stem for path in self.files))

    def count(self, content):
        try:
            tree = ElementTree.fromstring(content)
        except (ElementTree.ParseError, LookupError, ValueError):
            return None
        return len(tree.findall("object")) if tree.tag == "annotation" else None


class Yolo(Files):
    reader = YoloDataset

    def __init__(self, root):
        super().__init__(root)
        write_yolo(root, self.images)
        if (SHARED / "bccd").is_dir():
            real = VocDataset("test", root=str(SHARED / "bccd"))
            for i in range(2):
                path = Path(real.path(i))
                shutil.copyfile(path, root / f"images/train/{path.name}")
                target = real[i][1]
                lines = zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True)
                text = "\n".join(f"{label} {' '.join(f'{v:.6f}' for v in box)}" for label, box in lines)
                (root / f"labels/train/{path.stem}.txt").write_text(text)
        self.files = [root / "data.yaml", *sorted((root / "labels/train").glob("*.txt"))]

    def check(self, path, content, data):
        if path.suffix == ".txt":
            super().check(path, content, data)

    def count(self, content):
        try:
            lines = content.removeprefix(b"\xef\xbb\xbf").decode().splitlines()
        except UnicodeDecodeError:
            return None
        return sum(bool(line.split()) and not line.lstrip().startswith("#") for line in lines)


class Coco(Files):
    reader = CocoDataset

    def __init__(self, root):
        super().__init__(root)
        write_coco(root, self.images)
        self.listing = root / "annotations/instances_train2017.json"
        self.contents = [coco(self.images)]
        source = SHARED / "tiny_coco/annotations/instances_train2017.json"
        if source.is_file():
            real = json.loads(source.read_text())
            images = real["images"][:4]
            ids = {image["id"] for image in images}
            annotations = [entry for entry in real["annotations"] if entry["image_id"] in ids]
            categories = {entry["category_id"] for entry in annotations}
            for entry in annotations[4:]:
                entry["segmentation"] = []
            real = {"info": real["info"], "images": images, "annotations": annotations}
            self.contents.append({**real, "categories": [{"id": i, "name": f"c{i}"} for i in sorted(categories)]})
            for image in images:
                shutil.copyfile(
                    SHARED / "tiny_coco/train2017" / image["file_name"], root / "train2017" / image["file_name"]
                )

    def changed(self, rng):
        content = json.loads(json.dumps(self.contents[rng.integers(len(self.contents))]))
        form = rng.integers(3)
        with suppress(KeyError, RecursionError):  # no images are left, or they are nested too deep, to be changed
            content = some(rng, mutated_json, content) if form else content
        try:
            data = json.dumps(content).encode()
        except RecursionError:
            data = b'{"images": ' + b"[" * 3000
        return self.listing, data if form == 1 else some(rng, mutated_bytes, data)

    def check(self, path, content, data):
        try:
            content = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return
        entries = content["annotations"]
        kept = len(data._labels)
        dropped = [f for f in data.findings if f.action in DROPPED and str(f.field).startswith("annotation")]
        skipped = {str(f.image_id) for f in data.findings if f.action in SKIPPED}
        hidden = sum(
            str(e.get("image_id")).removesuffix(".0").strip() in skipped for e in entries if isinstance(e, dict)
        )
        assert kept + len(dropped) <= len(entries), f"{kept} + {len(dropped)} of {len(entries)} objects"
        assert kept + len(dropped) + hidden >= len(entries), f"{kept} + {len(dropped)} + {hidden} of {len(entries)}"


def one_line(error):
    text = str(error)
    text.encode()
    assert len(text.splitlines()) == 1, text
    assert len(text) < 2000, text


def outcome(files, seed):
    """Read a file that chance has changed; put it back."""
    rng = np.random.default_rng([seed, 0xF22])
    path, content = files.changed(rng)
    before = path.read_bytes()
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        try:
            data = type(files).reader(root=str(files.root))
        except DataError as error:
            one_line(error)
            return "refused"
        finally:
            assert time.perf_counter() - start < SLOWEST
        for found in data.findings:
            one_line(found)
        boxes = data._boxes
        height, width = data._sizes[np.repeat(np.arange(len(data)), np.diff(data._ends))].T
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((data._labels >= 0) & (data._labels < len(data.label_space))).all()
        files.check(path, content, data)
        if not data.findings:
            type(files).reader(root=str(files.root), strict=True)
            return "read"
        with pytest.raises(DataError) as raised:
            type(files).reader(root=str(files.root), strict=True)
        one_line(raised.value)
        return "told"
    finally:
        path.write_bytes(before)


def run(files, seeds):
    """Outcomes of many files, counted."""
    counts = {"refused": 0, "told": 0, "read": 0}
    for seed in seeds:
        try:
            counts[outcome(files, seed)] += 1
        except Exception as failure:
            raise AssertionError(f"seed {seed}: {type(failure).__name__}: {failure}") from failure
    return counts


@pytest.fixture(params=[Voc, Coco, Yolo], ids=["voc", "coco", "yolo"])
def files(request, tmp_path):
    return request.param(tmp_path / "data")


@pytest.mark.fast
def test_some_fuzzed_files(files):
    counts = run(files, range(200))
    assert counts["told"] > 20
    assert counts["read"] > 5


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_ten_thousand_fuzzed_files(files):
    counts = run(files, range(1000, 11_000))
    one_file_holds_all = not isinstance(files, Voc)  # where each image has its own, a broken one costs that image alone
    assert all(count > 100 for name, count in counts.items() if name != "refused" or one_file_holds_all)
