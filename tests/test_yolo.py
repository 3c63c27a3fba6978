"""YOLO: the layouts people have, lines of labels of every kind, data.yaml from anywhere."""

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from layouts import Drawn, save, write_text, write_yolo
from PIL import Image

from detrkit.datasets._yaml import read_yaml
from detrkit.datasets.yolo import YoloDataset
from detrkit.errors import DataError

pytestmark = pytest.mark.fast

IMAGES = {
    "a": Drawn(40, 30, [[0, 0, 10, 20], [12, 5, 40, 30]], [1, 2], [False, False]),
    "b": Drawn(40, 30),
}
VAL = {"c": Drawn(40, 30, [[1, 1, 9, 9]], [0], [False])}
LINE = "1 0.5 0.5 0.25 0.5"


class Tree:
    """Images of 30 x 40 pixels: ``a`` with two objects and ``b`` with none in train, ``c`` with one in val."""

    def __init__(self, root):
        self.root = root
        write_yolo(root, IMAGES)
        write_yolo(root, VAL, split="val")

    def write(self, path, content):
        (self.root / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    def read(self, split="train", where="", **settings):
        return YoloDataset(split, root=str(self.root / where), **settings)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "yolo")


def counts(data):
    return {Path(data[i][1]["image_id"]).stem: len(data[i][1]["labels"]) for i in range(len(data))}


def test_reads_the_layout(tree):
    data = tree.read(strict=True)
    assert (data.label_space.names, data.label_space.ids) == (("ant", "cat", "dog"), (0, 1, 2))
    _, target = data[0]
    assert (target["image_id"], target["labels"].tolist()) == ("images/train/a.png", [1, 2])
    np.testing.assert_allclose(target["boxes"][0], [5 / 40, 10 / 30, 10 / 40, 20 / 30], rtol=1e-6)
    assert counts(data) == {"a": 2, "b": 0}
    assert counts(tree.read("valid", strict=True)) == {"c": 1}


NAMES = "names: [ant, cat, dog]\n"
DESCRIPTIONS = {
    "folder": "train: images/train",
    "slash": "train: ./images/train/",
    "windows": "train: images\\train",
    "roboflow": "train: ../images/train",
    "list of folders": "train: [images/train, images/train]",
    "list of images": "train: train.txt",
    "path": "path: images\ntrain: train",
    "path here": "path: .\ntrain: images/train",
    "path elsewhere": "path: ../datasets/blood\ntrain: images/train",
    "absolute path": "path: /data/blood\ntrain: images/train",
    "count": "nc: 3\ntrain: images/train",
    "mapping": "train: images/train\nnames: {0: ant, 1: cat, 2: dog}\n",
    "mapping, other order": "train: images/train\nnames:\n  2: dog\n  0: ant\n  1: cat\n",
}


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_descriptions(tree, description):
    text = DESCRIPTIONS[description]
    tree.write("data.yaml", text if "names" in text else text + "\n" + NAMES)
    tree.write("train.txt", f"./images/train/a.png\n\n{(tree.root / 'images/train/b.png').resolve()}\n")
    data = tree.read()
    assert counts(data) == {"a": 2, "b": 0}
    assert data.label_space.names == ("ant", "cat", "dog")
    twice = description == "list of folders"
    assert [f.what for f in data.findings] == ["image is listed twice"] * 2 * twice


def test_ids_with_gaps_and_names_that_look_like_something_else(tree):
    tree.write("data.yaml", "train: images/train\nnames: {7: no, 1: 1.0, 2: 2020-01-01}")
    tree.write("labels/train/a.txt", "7 0.5 0.5 0.25 0.5\n")
    data = tree.read(strict=True)
    assert (data.label_space.names, data.label_space.ids) == (("1.0", "2020-01-01", "no"), (1, 2, 7))
    assert data[0][1]["labels"].tolist() == [2]


@pytest.mark.parametrize("name", ["data.yml", "dataset.yaml", "blood cells.yaml"])
def test_names_of_the_description(tree, name):
    (tree.root / "data.yaml").rename(tree.root / name)
    assert len(tree.read(strict=True)) == len(tree.read(where=name, strict=True)) == 2
    (tree.root / "other.yaml").write_text("x")
    assert len(tree.read(where=name)) == 2
    if name == "blood cells.yaml":
        with pytest.raises(DataError, match=r"there are blood cells.yaml, other.yaml: name one of them"):
            tree.read()


LAYOUTS = {
    "ultralytics": ("images/{}", "labels/{}"),
    "roboflow": ("{}/images", "{}/labels"),
    "beside": ("{}", "{}"),
    "beside, below": ("images/{}", "images/{}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_without_a_description(tmp_path, layout):
    images, labels = LAYOUTS[layout]
    write_text(tmp_path / "classes.txt", "ant\ncat\n\ndog\n")
    for split, stem in (("train", "a"), ("valid", "c")):
        save(tmp_path / images.format(split) / f"{stem}.jpg", Image.new("RGB", (40, 30)))
        write_text(tmp_path / labels.format(split) / f"{stem}.txt", LINE)
    for split, stem in (("train", "a"), ("val", "c")):
        data = YoloDataset(split, root=str(tmp_path), strict=True)
        assert (counts(data), data.label_space.names) == ({stem: 1}, ("ant", "cat", "dog"))


def test_one_folder_for_every_split_is_told(tmp_path):
    write_text(tmp_path / "classes.txt", "ant\ncat")
    save(tmp_path / "images/a.png", Image.new("RGB", (40, 30)))
    write_text(tmp_path / "labels/a.txt", LINE)
    assert [f.what for f in YoloDataset(root=str(tmp_path)).findings] == ["folder is the same for every split"]


def test_the_last_folder_called_images_counts(tmp_path):
    root = tmp_path / "images"
    write_text(root / "data.yaml", "train: images/images\nnames: [ant, cat]")
    save(root / "images/images/a.png", Image.new("RGB", (40, 30)))
    write_text(root / "images/labels/a.txt", LINE)
    assert counts(YoloDataset(root=str(root), strict=True)) == {"a": 1}


GOOD = {
    "box": (LINE, [[15, 7.5, 25, 22.5]]),
    "exponents": ("1 5e-1 .5 2.5e-1 +0.5", [[15, 7.5, 25, 22.5]]),
    "class as a decimal": ("1.0 0.5 0.5 0.25 0.5", [[15, 7.5, 25, 22.5]]),
    "polygon": ("1 0.5 0.1 0.75 0.5 0.25 0.9", [[10, 3, 30, 27]]),
    "oriented box": ("1 0.5 0.1 0.75 0.5 0.5 0.9 0.25 0.5", [[10, 3, 30, 27]]),
    "both": (f"{LINE}\n1 0.5 0.1 0.75 0.5 0.25 0.9", [[15, 7.5, 25, 22.5], [10, 3, 30, 27]]),
    "blank lines, tabs, windows": (f"\r\n\t{LINE}  \r\n \r\n", [[15, 7.5, 25, 22.5]]),
    "comment": (f"# class cx cy w h\n{LINE}", [[15, 7.5, 25, 22.5]]),
    "mark": (b"\xef\xbb\xbf" + LINE.encode(), [[15, 7.5, 25, 22.5]]),
    "utf-16": (LINE.encode("utf-16"), [[15, 7.5, 25, 22.5]]),
    "empty": ("", []),
    "rounding": ("1 0.500001 0.5 1 1.000001", [[0, 0, 40, 30]]),
    "nothing there": (None, []),
}


@pytest.mark.parametrize("good", GOOD)
def test_lines(tree, good):
    content, expected = GOOD[good]
    if content is None:
        (tree.root / "labels/train/a.txt").unlink()
    else:
        tree.write("labels/train/a.txt", content)
    data = tree.read(strict=True)
    np.testing.assert_allclose(data._boxes, np.reshape(expected, (-1, 4)), atol=1e-4)


def test_keypoints_are_left_out(tree):
    tree.write("data.yaml", f"train: images/train\nkpt_shape: [2, 3]\n{NAMES}")
    tree.write("labels/train/a.txt", f"{LINE} 0.1 0.2 2 0.3 0.4 1\n{LINE}\n")
    assert tree.read(strict=True)._boxes.tolist() == [[15, 7.5, 25, 22.5]] * 2
    tree.write("labels/train/a.txt", f"{LINE} 0.1 0.2 2\n")
    assert ["columns" in f.what for f in tree.read().findings] == [True]


FAULTS = {
    "class": (f"3{LINE[1:]}", "unknown class", "dropped", 0),
    "negative class": (f"-1{LINE[1:]}", "not the number of a class", "dropped", 0),
    "half a class": (f"0.5{LINE[1:]}", "not the number of a class", "dropped", 0),
    "huge class": (f"1e300{LINE[1:]}", "not the number of a class", "dropped", 0),
    "name": (f"cat{LINE[1:]}", "not a number", "dropped", 0),
    "pixels": ("1 20 15 10 15", "looks like pixels", "dropped", 0),
    "far outside": ("1 0.5 -3 0.1 0.1", "looks like pixels", "dropped", 0),
    "reaches out": ("1 0.9 0.5 0.5 0.5", "reaches out", "clipped", 1),
    "outside": ("1 1.3 0.5 0.2 0.5", "lies outside", "dropped", 0),
    "no area": ("1 0.5 0.5 0 0.5", "no area", "dropped", 0),
    "negative": ("1 0.5 0.5 -0.1 0.5", "no area", "dropped", 0),
    "nan": ("1 nan 0.5 0.1 0.5", "not a number", "dropped", 0),
    "infinite": ("1 0.5 0.5 inf 0.5", "not a number", "dropped", 0),
    "words": ("1 0.5 0.5 0,1 0.5", "not a number", "dropped", 0),
    "python's numbers": ("1 0.5 0_5 0.1 0.5", "not a number", "dropped", 0),
    "four columns": ("1 0.5 0.5 0.1", "line has 4 columns", "dropped", 0),
    "one column": ("1", "line has 1 columns", "dropped", 0),
    "eight columns": (f"{LINE} 0.1 0.1 0.1", "line has 8 columns", "dropped", 0),
    "confidence": (f"{LINE} 0.93", "sixth column", "sixth column left out", 1),
    "polygon in pixels": ("1 1 1 20 1 20 20", "looks like pixels", "dropped", 0),
    "flat polygon": ("1 0.1 0.1 0.1 0.5 0.1 0.9", "no area", "dropped", 0),
    "commas": (LINE.replace(" ", ","), "not a number", "dropped", 0),
    "json": ('{"boxes": []}', "not a number", "dropped", 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tree, fault):
    line, what, action, remaining = FAULTS[fault]
    tree.write("labels/train/a.txt", f"# first\n{line}\n{LINE}\n")
    data = tree.read()
    assert len(data.findings) == 1, data.findings
    finding = data.findings[0]
    assert what in finding.what
    assert (finding.action, finding.field, finding.image_id) == (action, "line 2", "images/train/a.png")
    assert finding.path.endswith("labels/train/a.txt")
    assert "\n" not in str(finding)
    assert counts(data) == {"a": remaining + 1, "b": 0}
    with pytest.raises(DataError, match=what):
        tree.read(strict=True)


def damage_label(tree):
    tree.write("labels/train/a.txt", b"1 0.5 \xff")


def link_label(tree):
    (tree.root / "labels/train/a.txt").rename(tree.root.parent / "outside.txt")
    (tree.root / "labels/train/a.txt").symlink_to(tree.root.parent / "outside.txt")


def dangling_label(tree):
    (tree.root / "labels/train/a.txt").unlink()
    (tree.root / "labels/train/a.txt").symlink_to("nothing")


def label_folder(tree):
    (tree.root / "labels/train/a.txt").unlink()
    (tree.root / "labels/train/a.txt").mkdir()


def large_label(tree):
    tree.write("labels/train/a.txt", f"{LINE}\n" * 300_000)


def damage_image(tree):
    tree.write("images/train/a.png", b"<html>")


def link_image(tree):
    (tree.root / "images/train/a.png").rename(tree.root.parent / "outside.png")
    (tree.root / "images/train/a.png").symlink_to(tree.root.parent / "outside.png")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (damage_label, "not a text file"),
        (link_label, "leads out"),
        (dangling_label, "no such file"),
        (label_folder, "no such file"),
        (large_label, "file is too large"),
        (damage_image, "not an image"),
        (link_image, "leads out"),
    ],
)
def test_images_that_cannot_be_used(tree, change, what):
    change(tree)
    data = tree.read()
    assert [(what in f.what, f.action) for f in data.findings] == [(True, "image skipped")]
    assert counts(data) == {"b": 0}
    with pytest.raises(DataError, match=what):
        tree.read(strict=True)


def test_labels_without_an_image_are_told(tree):
    write_text(tree.root / "labels/train/x.txt", LINE)
    write_text(tree.root / "labels/train/classes.txt", "ant")
    data = tree.read()
    assert [(f.path[-5:], f.what) for f in data.findings] == [("x.txt", "file of labels without an image")]


def test_no_labels_at_all_are_told(tree):
    (tree.root / "labels").rename(tree.root / "label")
    data = tree.read()
    assert counts(data) == {"a": 0, "b": 0}
    assert [f.what for f in data.findings] == ["no image has a file of labels"]


def test_lists_of_images(tree):
    tree.write("data.yaml", f"train: train.txt\n{NAMES}")
    lines = [
        "images/train/b.png",
        "images/train/a.png",
        "../x.png",
        "/etc/passwd",
        "images/train/x.png",
        "http://x/a.png",
    ]
    tree.write("train.txt", "\n".join(lines))
    data = tree.read()
    assert list(counts(data)) == ["b", "a"], "in the order of the list"
    assert [f.field for f in data.findings] == ["line 3", "line 4", "line 5", "line 6"]


LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(12))
WRONG = {
    "empty": ("", "not a description of data"),
    "list": ("[1, 2]", "not a description of data"),
    "text": ("hello", "not a description of data"),
    "html": ("<!DOCTYPE html>\n<p class='a'>: x</p>", "data.yaml"),
    "broken": ("names: [a, b", "not YAML.*in line 1"),
    "tab": ("names:\n\t- a", "not YAML.*in line 2"),
    "binary": (b"\x00\x01", "not YAML"),
    "latin": (b"names: [\xe9]", "not a text file.*byte 8"),
    "laughs": (LAUGHS, "uses an alias"),
    "deep": ("names: " + "[" * 200_000, "nested too deep"),
    "deep blocks": ("".join(f"{' ' * i}a:\n" for i in range(700)), "nested too deep"),
    "large": ("# " + "x" * 600_000, "too large"),
    "documents": ("names: [a]\n---\nnames: [b]", "several documents"),
    "key twice": ("names: [a]\nnames: [b]", "gives the key 'names' twice"),
    "odd key": ("[1, 2]: 3", "key that is no text"),
    "no names": ("train: images/train", "names: no names of classes"),
    "names empty": ("train: images/train\nnames: []", "names: no names of classes"),
    "names text": ("train: images/train\nnames: a, b", "names: no names of classes"),
    "name blank": ("names: ['', b]", r"names\[0\]: not the name of a class"),
    "name a list": ("names: [[a], b]", r"names\[0\]: not the name of a class"),
    "id a word": ("names: {a: b}", r"names\[a\]: not a number"),
    "two of one id": ("names: {1: a, 01: b}", "two names of one class"),
    "no split": (f"val: images/val\n{NAMES}", r"train: no such split; known: val"),
    "no folder": (f"train: images/x\n{NAMES}", "train: no such file"),
    "folder a mapping": (f"train: {{a: b}}\n{NAMES}", "train: not a path"),
    "folder outside": (f"train: /etc\n{NAMES}", "train: path leads out"),
    "folder upwards": (f"train: images/../../x\n{NAMES}", "train: path leads out"),
    "url": (f"train: https://x.org/a.zip\n{NAMES}", "train: file is named by a URL"),
    "keypoints": (f"train: images/train\nkpt_shape: 5\n{NAMES}", "not a shape of keypoints"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_descriptions_that_are_wrong(tree, wrong):
    content, what = WRONG[wrong]
    tree.write("data.yaml", content)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(DataError, match=what) as raised:
        tree.read()
    seconds, (_, most) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(raised.value).startswith(str(tree.root / "data.yaml"))
    assert "\n" not in str(raised.value)
    assert seconds < 5
    assert most < 100e6


def test_number_of_names_that_differs_is_told(tree):
    tree.write("data.yaml", f"nc: 4\ntrain: images/train\n{NAMES}")
    assert [(f.field, f.action) for f in tree.read().findings] == [("nc", "names counted")]


def test_names_given_twice_are_one_class(tree):
    tree.write("data.yaml", "train: images/train\nnames: [cat, ant, cat]")
    data = tree.read()
    assert data.label_space.names == ("cat", "ant")
    assert data[0][1]["labels"].tolist() == [1, 0]
    assert [(f.field, f.action) for f in data.findings] == [("names[2].name", "taken as one class")]


def test_what_cannot_be_a_data_set(tree, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        YoloDataset(root=str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=f"no data.yaml and no classes.txt.*did you mean {tree.root}"):
        YoloDataset(root=str(tmp_path))
    (tree.root / "data.yaml").unlink()
    write_text(tree.root / "classes.txt", "ant")
    with pytest.raises(DataError, match="no images of the split 'test'; expected images/test or"):
        tree.read("test")
    write_text(tree.root / "classes.txt", " \n")
    with pytest.raises(DataError, match="no names of classes"):
        tree.read()
    write_text(tree.root / "data.yaml", f"train: images/train\n{NAMES}")
    for path in (tree.root / "images/train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no usable image"):
        tree.read()
    (tree.root / "images/train").rmdir()
    (tree.root / "images/train").symlink_to(tree.root.parent)
    with pytest.raises(DataError, match="leads out of the data set"):
        tree.read()


def test_yaml_is_read_as_texts_lists_and_mappings(tmp_path):
    path = tmp_path / "a.yaml"
    content = {"a": "1", "b": ["no", "~", {"c": "2020-01-01"}], "d": {}}
    path.write_text("a: 1\nb:\n- no\n- ~\n- {c: 2020-01-01}\nd: {}  # nothing\n")
    assert read_yaml(path) == content
    path.write_text(json.dumps(content))
    assert read_yaml(path) == content


def test_orientation(tree):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(tree.root / "images/train/a.png", exif=exif)
    image, target = tree.read(strict=True)[0]
    assert image.size == (40, 30)
    np.testing.assert_allclose(target["boxes"][0], [5 / 40, 10 / 30, 10 / 40, 20 / 30], rtol=1e-6)
