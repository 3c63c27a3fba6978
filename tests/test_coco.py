"""COCO: the layouts people have, every fault by class, and reading in pieces."""

import json
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import Drawn, coco, save, write_text
from PIL import Image

from detrkit.datasets import _json
from detrkit.datasets._json import read_lists
from detrkit.datasets.coco import CocoDataset
from detrkit.errors import DataError
from detrkit.labels import COCO

pytestmark = pytest.mark.fast

TINY = Path(__file__).parents[2] / "shared" / "data" / "tiny_coco"
IMAGES = {
    "a": Drawn(40, 30, [[0, 0, 10, 20], [12, 5, 40, 30]], [1, 2], [False, True]),
    "b": Drawn(40, 30),
    "c": Drawn(40, 30, [[1, 1, 9, 9]], [0], [False]),
}


class Tree:
    """Three images of 30 x 40 pixels: ``a`` with two objects (ids 1, 2), ``b`` with none, ``c`` with one (id 3)."""

    def __init__(self, root):
        self.root, self.content = root, coco(IMAGES)
        self.listing = root / "annotations/instances_train2017.json"
        for stem, one in IMAGES.items():
            save(root / f"train2017/{stem}.png", one.image())

    def read(self, content=None, **settings):
        content = self.content if content is None else content
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        self.listing.parent.mkdir(exist_ok=True)
        self.listing.write_bytes(text if isinstance(text, bytes) else text.encode())
        return CocoDataset(root=str(self.root), **settings)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "coco")


def counts(data):
    """Objects by image."""
    return {Path(data.path(i)).stem: len(data.target(i)["labels"]) for i in range(len(data))}


def test_reads_the_layout(tree):
    data = tree.read(strict=True)
    assert (data.label_space.names, data.label_space.ids) == (("ant", "cat", "dog"), (1, 8, 15))
    image, target = data[0]
    assert image.getpixel((0, 0)) == (220, 30, 30)
    assert (target["image_id"], target["labels"].tolist(), target["iscrowd"].tolist()) == (10, [1, 2], [False, True])
    np.testing.assert_allclose(target["boxes"][0], [5 / 40, 10 / 30, 10 / 40, 20 / 30], rtol=1e-6)
    assert counts(data) == {"a": 2, "b": 0, "c": 1}


LAYOUTS = {
    "coco": ("annotations/instances_{}2017.json", "{}2017"),
    "images below": ("annotations/instances_{}2017.json", "images/{}2017"),
    "2014": ("annotations/instances_{}2014.json", "{}2014"),
    "no year": ("annotations/instances_{}.json", "{}"),
    "no year, one folder": ("annotations/instances_{}.json", "images"),
    "no year, images below": ("annotations/instances_{}.json", "images/{}"),
    "plain": ("annotations/{}.json", "images"),
    "roboflow": ("{}/_annotations.coco.json", "{}"),
    "beside a folder": ("{}/annotations.json", "{}/images"),
    "fiftyone": ("{}/labels.json", "{}/data"),
    "flat": ("{}.json", "images"),
    "very flat": ("{}.json", "."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_known(tmp_path, layout):
    listing, folder = LAYOUTS[layout]
    for split, stem in (("train", "a"), ("valid" if layout == "roboflow" else "val", "c")):
        write_text(tmp_path / listing.format(split), json.dumps(coco({stem: IMAGES[stem]})))
        save(tmp_path / folder.format(split) / f"{stem}.png", IMAGES[stem].image())
    for split, stem in (("train", "a"), ("val", "c")):
        data = CocoDataset(split, root=str(tmp_path), strict=True)
        assert counts(data) == {stem: len(IMAGES[stem].labels)}


def test_settings_name_any_layout(tree, tmp_path):
    tree.listing = tree.root / "truth" / "the train set.json"
    (tree.root / "train2017").rename(tmp_path / "pictures")
    where = {"annotations": "truth/the * set.json", "images": str(tmp_path / "pictures")}
    assert counts(tree.read(strict=True, **where)) == {"a": 2, "b": 0, "c": 1}
    (tmp_path / "pictures").rename(tree.root / "pictures train")
    assert len(tree.read(strict=True, **{**where, "images": "pictures *"})) == 3
    one_file = {"annotations": "truth/the train set.json", "images": "pictures train"}
    assert ["same for every split" in f.what for f in tree.read(**one_file).findings] == [True]
    with pytest.raises(DataError, match="same for every split"):
        tree.read(strict=True, **one_file)


def test_file_names_with_folders(tree):
    for image in tree.content["images"]:
        image["file_name"] = "train2017/" + image["file_name"]
    assert len(tree.read(strict=True)) == 3
    for image in tree.content["images"]:
        image["file_name"] = image["file_name"].replace("/", "\\")
    assert len(tree.read(strict=True)) == 3
    tree.content["images"][0]["file_name"] = str((tree.root / "train2017/a.png").resolve())
    assert len(tree.read(strict=True)) == 3


def test_label_space_does_not_depend_on_the_order_of_categories(tree):
    spaces = [tree.read().label_space]
    tree.content["categories"].reverse()
    spaces.append(tree.read().label_space)
    assert spaces[0] == spaces[1]


def test_what_may_be_missing(tree):
    for annotation in tree.content["annotations"]:
        del annotation["iscrowd"], annotation["id"]
    data = tree.read(strict=True)
    assert data[0][1]["iscrowd"].tolist() == [False, False]


def test_area_is_that_of_the_mask_or_of_the_box(tree):
    told = [17, 0, None, "many", -3, [4]]
    tree.content["annotations"] = [
        {"id": k, "image_id": 10, "category_id": 8, "bbox": [1, 2, 10, 5], **({} if a is None else {"area": a})}
        for k, a in enumerate(told, 1)
    ]
    data = tree.read()
    assert data[0][1]["area"].tolist() == [17, 0, 50, 50, 50, 50]
    assert [f.action for f in data.findings if f.field and f.field.endswith("area")] == ["taken from the box"] * 3


def test_ids_of_several_kinds(tree):
    for image in tree.content["images"]:
        image["id"] = f"{image['id']}"
    tree.content["annotations"][0] |= {"image_id": 10.0, "id": "x", "category_id": "8"}
    assert counts(tree.read(strict=True)) == {"a": 2, "b": 0, "c": 1}
    tree.content["images"][0]["id"] = tree.content["annotations"][0]["image_id"] = "010"
    data = tree.read()
    assert data[0][1]["image_id"] == "010"
    assert [(f.field, f.value) for f in data.findings] == [("annotation 2.image_id", "10")]


@pytest.mark.parametrize("encode", [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.encode("utf-16")])
def test_byte_order_marks(tree, encode):
    tree.content["categories"][0]["name"] = "Käfer"
    assert "Käfer" in tree.read(encode(json.dumps(tree.content, ensure_ascii=False)), strict=True).label_space.names


def annotation(**changes):
    return lambda content: content["annotations"][0].update(changes)


def image(**changes):
    return lambda content: content["images"][0].update(changes)


def category(**changes):
    return lambda content: content["categories"][1].update(changes)


def add(key, entry):
    return lambda content: content[key].append(entry)


def without(key, field):
    return lambda content: content[key][0].pop(field)


OTHER = {"id": 10, "file_name": "b.png", "width": 40, "height": 30}
# what is changed; what is found; in which field; what is done; objects that remain
WHOLE = {"a": 2, "b": 0, "c": 1}
ONE_LESS, NO_A, NO_CAT = {**WHOLE, "a": 1}, {"b": 0, "c": 1}, {**WHOLE, "a": 1}
FAULTS = {
    "no area": (annotation(bbox=[1, 1, 0, 5]), "no area", "annotation 1.bbox", "dropped", ONE_LESS),
    "negative": (annotation(bbox=[9, 9, -4, 5]), "no area", "annotation 1.bbox", "dropped", ONE_LESS),
    "reaches out": (annotation(bbox=[30, 20, 60, 50]), "reaches out", "annotation 1.bbox", "clipped", WHOLE),
    "outside": (annotation(bbox=[50, 20, 60, 50]), "lies outside", "annotation 1.bbox", "dropped", ONE_LESS),
    "huge": (annotation(bbox=[1, 1, 1e308, 1e308]), "reaches out", "annotation 1.bbox", "clipped", WHOLE),
    "huge integer": (annotation(bbox=[1, 1, 10**400, 5]), "not a number", "annotation 1.bbox", "dropped", ONE_LESS),
    "nan": (annotation(bbox=[1, float("nan"), 4, 5]), "not a number", "annotation 1.bbox", "dropped", ONE_LESS),
    "infinite": (annotation(bbox=[1, 1, float("inf"), 5]), "not a number", "annotation 1.bbox", "dropped", ONE_LESS),
    "text": (annotation(bbox=[1, "2", 4, 5]), "not a number", "annotation 1.bbox", "dropped", ONE_LESS),
    "null in a box": (annotation(bbox=[1, None, 4, 5]), "not a number", "annotation 1.bbox", "dropped", ONE_LESS),
    "true in a box": (annotation(bbox=[1, True, 4, 5]), "not a number", "annotation 1.bbox", "dropped", ONE_LESS),
    "three numbers": (annotation(bbox=[1, 2, 3]), "not a box", "annotation 1.bbox", "dropped", ONE_LESS),
    "five numbers": (annotation(bbox=[1, 2, 3, 4, 5]), "not a box", "annotation 1.bbox", "dropped", ONE_LESS),
    "no list": (annotation(bbox={"x": 1}), "not a box", "annotation 1.bbox", "dropped", ONE_LESS),
    "null box": (annotation(bbox=None), "not a box", "annotation 1.bbox", "dropped", ONE_LESS),
    "no box": (without("annotations", "bbox"), "missing", "annotation 1.bbox", "dropped", ONE_LESS),
    "category": (annotation(category_id=99), "no such category", "annotation 1.category_id", "dropped", ONE_LESS),
    "category text": (annotation(category_id="cat"), "not the id", "annotation 1.category_id", "dropped", ONE_LESS),
    "category huge": (annotation(category_id=10**30), "not the id", "annotation 1.category_id", "dropped", ONE_LESS),
    "category null": (annotation(category_id=None), "not an id", "annotation 1.category_id", "dropped", ONE_LESS),
    "no category": (without("annotations", "category_id"), "missing", "annotation 1.category_id", "dropped", ONE_LESS),
    "unlisted image": (annotation(image_id=99), "no such image", "annotation 1.image_id", "dropped", ONE_LESS),
    "image id list": (annotation(image_id=[10]), "not an id", "annotation 1.image_id", "dropped", ONE_LESS),
    "no image id": (without("annotations", "image_id"), "missing", "annotation 1.image_id", "dropped", ONE_LESS),
    "same annotation id": (annotation(id=2), "given twice", "annotations[1].id", "both kept", WHOLE),
    "crowd": (annotation(iscrowd=2), "not a mark", "annotation 1.iscrowd", "taken as no crowd", WHOLE),
    "crowd null": (annotation(iscrowd=None), "not a mark", "annotation 1.iscrowd", "taken as no crowd", WHOLE),
    "annotation is null": (add("annotations", None), "not an object", "annotations[3]", "dropped", WHOLE),
    "annotation is a list": (add("annotations", [[1]]), "not an object", "annotations[3]", "dropped", WHOLE),
    "no file": (image(file_name="x.png"), "no such file", "file_name", "image skipped", NO_A),
    "folder": (image(file_name="."), "no such file", "file_name", "image skipped", NO_A),
    "up": (image(file_name="../train2017/a.png"), "leads out", "file_name", "image skipped", NO_A),
    "up, windows": (image(file_name="..\\train2017\\a.png"), "leads out", "file_name", "image skipped", NO_A),
    "absolute": (image(file_name="/etc/passwd"), "leads out", "file_name", "image skipped", NO_A),
    "home": (image(file_name="~/a.png"), "leads out", "file_name", "image skipped", NO_A),
    "drive": (image(file_name="C:\\a.png"), "leads out", "file_name", "image skipped", NO_A),
    "url": (image(file_name="http://x.org/a.png"), "URL", "file_name", "image skipped", NO_A),
    "nul": (image(file_name="a\0b/c.png"), "path leads nowhere", "file_name", "image skipped", NO_A),
    "surrogate": (image(file_name="\ud800.png"), "no such file", "file_name", "image skipped", NO_A),
    "long": (image(file_name="x" * 3000), "path leads nowhere", "file_name", "image skipped", NO_A),
    "blank name": (image(file_name=" "), "not a file name", "images[0].file_name", "image skipped", NO_A),
    "number as name": (image(file_name=7), "not a file name", "images[0].file_name", "image skipped", NO_A),
    "no name": (without("images", "file_name"), "missing", "images[0].file_name", "image skipped", NO_A),
    "other size": (image(width=30, height=40), "not that of the image", "width, height", "size taken", WHOLE),
    "no size": (without("images", "width"), "missing", "width", "size taken", WHOLE),
    "odd size": (image(height="30"), "not a number", "height", "size taken", WHOLE),
    "listed twice": (
        add("images", {**OTHER, "file_name": "a.png"}),
        "given twice",
        "images[3].id",
        "counted once",
        WHOLE,
    ),
    "two images of one id": (add("images", OTHER), "given twice", "images[3].id", "all entries", NO_A),
    "two ids of one image": (add("images", {**OTHER, "id": 99}), "two ids", "file_name", "kept as two", WHOLE),
    "image is a text": (add("images", "d.png"), "not an object", "images[3]", "image skipped", WHOLE),
    "same name": (category(name="dog"), "another class has this name", "category 15.name", "taken as one class", WHOLE),
    "category is a text": (add("categories", "eel"), "not an object", "categories[3]", "dropped", WHOLE),
    "category twice": (add("categories", {"id": 8, "name": "cat"}), "given twice", "categories[3].id", "once", WHOLE),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tree, fault):
    change, what, field, action, remaining = FAULTS[fault]
    change(tree.content)
    data = tree.read()
    assert len(data.findings) == 1, data.findings
    finding = data.findings[0]
    assert what in finding.what
    assert finding.field == field
    assert finding.action.startswith(action) or action in finding.action
    assert finding.path == str(tree.listing)
    assert "\n" not in str(finding)
    str(finding).encode()
    assert counts(data) == remaining
    with pytest.raises(DataError, match=what) as raised:
        tree.read(strict=True)
    assert "\n" not in str(raised.value)
    assert raised.value.path is not None


def test_categories_that_mean_nothing_take_their_objects_along(tree):
    for change in (
        add("categories", {"id": 8, "name": "cow"}),
        category(name=" "),
        category(id=None),
        category(id="x"),
    ):
        content = json.loads(json.dumps(tree.content))
        change(content)
        data = tree.read(content)
        assert [f.field.split("[")[0].split(" ")[0] for f in data.findings] == ["categories", "annotation"]
        assert data.findings[1].field == "annotation 1.category_id"
        assert counts(data) == NO_CAT
        assert data.label_space.names == ("ant", "dog")


def test_no_objects_at_all_is_told(tree):
    tree.content["annotations"] = []
    data = tree.read()
    assert (len(data), [f.what for f in data.findings]) == (3, ["no object is annotated"])


WRONG_FILES = {
    "empty": ("", "file is empty.*at byte 0"),
    "blank": (" \n\t", "file is empty"),
    "html": ("<!DOCTYPE html><html></html>", "not JSON but HTML"),
    "list": ("[]", "outermost value is no object.*a list"),
    "number": ("5", "outermost value is no object"),
    "no images": ('{"annotations": [], "categories": []}', "no field 'images'"),
    "no annotations": ('{"images": [], "categories": []}', "no field 'annotations'"),
    "images null": ('{"images": null}', "field 'images' is no list.*at byte 11"),
    "images twice": ('{"images": [], "images": []}', "field 'images' is given more than once"),
    "no categories": ('{"images": [], "annotations": [], "categories": []}', "no categories"),
    "no entries": (
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
        "no usable image.*no object is annotated",
    ),
    "behind the end": ('{"images": [], "annotations": [], "categories": []} x', "something follows.*at byte 52"),
    "comma": ('{"images": [1,]}', "not JSON.*at byte 14"),
    "key": ("{images: []}", "no name of a field at byte 1"),
    "colon": ('{"images" []}', "no ':' at byte 10"),
    "control": ('{"images": ["\n"]}', "Invalid control character"),
    "digits": ('{"images": [' + "9" * 5000 + "]}", "not JSON"),
    "binary": (b'{"images": ["\xff"]}', r"not a text file.*at byte 13"),
    "half a letter": (b'{"images": [], "annotations": [], "categories": []}\xc3', "not a text file.*at byte 51"),
    "nested": ("[" * 100_000, "outermost value is no object"),
    "nested below": ('{"images": [' + "[" * 100_000, "nested too deep"),
    "nested objects": ('{"info": ' + '{"a":' * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_files_that_are_not_cocos(tree, wrong):
    content, what = WRONG_FILES[wrong]
    with pytest.raises(DataError, match=what) as raised:
        tree.read(content)
    assert str(raised.value).startswith(str(tree.listing))
    assert "\n" not in str(raised.value)


def test_truncated_files_name_the_byte(tree):
    tree.content["categories"][0]["name"] = "Käfer"
    data = json.dumps(tree.content, ensure_ascii=False).encode()
    for length in range(0, len(data), 37):
        with pytest.raises(DataError, match=r"at byte|file is empty") as raised:
            tree.read(data[:length])
        if data[:length].decode(errors="ignore").encode() == data[:length] and length:
            assert f"at byte {length}" in str(raised.value) or "where the file ends" not in str(raised.value)
    with pytest.raises(DataError, match=rf"at byte {len(data) - 1}, where the file ends"):
        tree.read(data[:-1])


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(piece=st.integers(4, 40), seed=st.integers(0, 2**32 - 1))
def test_reading_in_pieces_gives_what_json_gives(tmp_path_factory, piece, seed):
    rng = np.random.default_rng(seed)
    values = [1e5, -0.5, 10**20, 'ü😀"\\', None, True, [], {}, {"a": [1, {"b": "x" * 30}]}, "[", 0, 1.5e-7]
    entries = [values[i] for i in rng.integers(0, len(values), 12)]
    content = {"other": entries[:3], "images": entries, "last": 12.5}
    text = json.dumps(content, ensure_ascii=bool(rng.integers(2)), indent=[None, 2][rng.integers(2)])
    path = tmp_path_factory.mktemp("pieces") / "a.json"
    path.write_text(text, encoding=["utf-8", "utf-8-sig", "utf-16"][rng.integers(3)])
    taken = []
    before, _json.PIECE = _json.PIECE, piece
    try:
        read_lists(path, {"images": lambda position, entry: taken.append((position, entry))})
    finally:
        _json.PIECE = before
    assert taken == list(enumerate(entries))


def test_fields_given_twice_are_told(tree):
    text = json.dumps(tree.content).replace('"iscrowd": 1', '"iscrowd": 1, "iscrowd": 0')
    data = tree.read(text)
    assert [(f.field, f.what) for f in data.findings] == [("annotations[1]", "a field is given more than once")]


@pytest.mark.parametrize("inside", ["train2017/a.png", "annotations/instances_train2017.json"])
def test_links_out_of_the_root_are_refused(tree, inside):
    tree.read()
    (tree.root / inside).rename(tree.root.parent / "outside")
    (tree.root / inside).symlink_to(tree.root.parent / "outside")
    if inside.endswith("json"):
        with pytest.raises(DataError, match="leads out of the data set"):
            CocoDataset(root=str(tree.root))
    else:
        assert "leads out of the data set" in tree.read().findings[0].what
        folder = tree.root / "train2017"
        shutil.move(folder, tree.root.parent / "elsewhere")
        folder.symlink_to(tree.root.parent / "elsewhere")
        with pytest.raises(DataError, match=r"no usable image.*leads out of the data set"):
            tree.read()
        assert counts(tree.read(images="train2017")) == NO_A, "a folder that the user names is the user's word"


def test_what_cannot_be_a_data_set(tree, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        CocoDataset(root=str(tmp_path / "nothing"))
    tree.read()
    with pytest.raises(DataError, match=r"no annotations of the split 'test'.*there are: annotations/instances_train"):
        CocoDataset("test", root=str(tree.root))
    with pytest.raises(DataError, match=f"did you mean {tree.root}"):
        CocoDataset(root=str(tmp_path))
    with pytest.raises(DataError, match="not the name of a split"):
        CocoDataset("../train", root=str(tree.root))
    with pytest.raises(DataError, match=r"annotations: no annotations.*got '\*\.jso'"):
        tree.read(annotations="*.jso")
    with pytest.raises(DataError, match=r"no usable image; 3 findings, the first: .*no such file"):
        tree.read(images="annotations")


def test_images_that_cannot_be_read(tree):
    (tree.root / "train2017/a.png").write_bytes(b"<html>")
    data = tree.read()
    assert [(f.path[-5:], f.image_id, f.action) for f in data.findings] == [("a.png", 10, "image skipped")]
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        tree.read(strict=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_images_of_any_mode(tree, mode):
    Image.new(mode, (40, 30)).save(tree.root / "train2017/a.png")
    assert tree.read(strict=True)[0][0].mode == "RGB"


def test_large_files_cost_little(tree):
    """Memory grows with the number of boxes, not with the size of the file, of which outlines are the most."""
    outline = [[round(0.37 * k % 400, 2) for k in range(120)]]
    box = {"category_id": 8, "bbox": [1, 2, 3, 4], "segmentation": outline}
    tree.content["annotations"] = [{"id": k, "image_id": 10 + k % 3, **box} for k in range(5_000)]
    text = json.dumps(tree.content)
    assert len(text) > 3e6
    tree.listing.parent.mkdir(exist_ok=True)
    tree.listing.write_text(text)
    del text, tree.content
    start = time.process_time()
    data = CocoDataset(root=str(tree.root))
    seconds = time.process_time() - start
    tracemalloc.start()
    CocoDataset(root=str(tree.root))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(counts(data).values()) == 5_000
    assert most < 10e6  # measured: 4.6e6; json.loads takes 26e6
    assert seconds < 5  # measured: 0.06


@pytest.mark.skipif(not TINY.is_dir(), reason="the genuine images (shared/data/tiny_coco) are not here")
def test_genuine_images():
    for split, objects, crowds in (("train", 470, 5), ("val", 382, 5)):
        data = CocoDataset(split, root=str(TINY), strict=True)
        assert data.label_space == COCO
        targets = [data[i][1] for i in range(len(data))]
        assert (len(data), sum(len(t["labels"]) for t in targets)) == (50, objects)
        assert sum(int(t["iscrowd"].sum()) for t in targets) == crowds
