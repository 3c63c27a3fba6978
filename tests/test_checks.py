"""The checks of data and configurations, and the pages they write: every fault is found where it is, and no other."""

from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import detrkit
from detrkit import charts, html, labels
from detrkit.checks.config import activations, check_config
from detrkit.checks.data import as_text, check_data, short_name
from detrkit.checks.data_page import write_page
from detrkit.checks.survey import Viewer, digest, survey
from detrkit.checks.suspicions import names_alike, suspicions
from detrkit.datasets import Dataset, Finding
from detrkit.datasets._reading import make_target
from detrkit.errors import ConfigError, DataError
from detrkit.labels import LabelSpace
from detrkit.registry import REGISTRY

VIEWER = Viewer(short_side=96, long_side=96, stride=16, num_queries=20)
SIDE = 96
GOOD = (10, 10, 50, 60)
VOID = {"br", "img", "meta"}


class Pictures(Dataset):
    """Noise with boxes: one entry an image, (seed of the pixels, boxes in pixels, labels)."""

    def __init__(self, entries, names=("cat", "dog")):
        self.entries, self.label_space, self.findings = entries, LabelSpace(names), []

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        seed, boxes, classes = self.entries[index]
        if seed is None:
            raise DataError("image cannot be read", path=f"{index}.jpg", value="(truncated)")
        pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        return Image.fromarray(pixels), make_target(np.array(boxes), classes, (SIDE, SIDE), image_id=f"image {index}")


def plenty(start=0, boxes=(GOOD, (30, 30, 80, 90))):
    """Images in which nothing is suspicious: ten of each of two classes."""
    return [(start + i, list(boxes), [0, 1]) for i in range(10)]


def suspected(train, val=None, **options):
    """What is said of which images: (what, split, image id, boxes)."""
    splits = {"train": train, "val": plenty(100) if val is None else val}
    surveys = [survey(Pictures(entries, **options), split) for split, entries in splits.items()]
    found = suspicions(surveys, VIEWER)
    return {(one.what, one.split, one.image_id, one.boxes) for one in found}


# --- what is suspicious -----------------------------------------------------------------------------------------------


@pytest.mark.fast
def test_nothing_is_suspicious_where_nothing_is():
    assert suspected(plenty()) == set()


FAULTS = [
    ((11, [GOOD, (5, 5, 9, 8)], [0, 1]), "box is smaller than a cell of 16 pixels where the detector sees it", (1,)),
    ((11, [GOOD, (0, 5, 90, 10)], [0, 1]), "box is more than 10 times as long as wide", (1,)),
    ((11, [(0, 0, 96, 95), GOOD], [0, 1]), "box covers nearly the whole image", (0,)),
    ((11, [GOOD, (0, 0, 30, 30), (10, 10, 50, 59.9)], [0, 1, 0]), "two boxes of a class are nearly the same", (0, 2)),
    ((3, [GOOD], [0]), "same pixels as another image", ()),
    ((11, [GOOD] + [(i, i, i + 20, i + 25) for i in range(0, 60, 3)], [0] * 21), "more objects than 20 queries", ()),
]


@pytest.mark.fast
@pytest.mark.parametrize(("entry", "what", "boxes"), FAULTS, ids=[what for _, what, _ in FAULTS])
def test_a_fault_is_found_where_it_is(entry, what, boxes):
    assert suspected([*plenty(), entry]) == {(what, "train", "image 10", boxes)}
    held_out = [*plenty(100), (100 + entry[0], *entry[1:])]
    assert suspected(plenty(), held_out) == {(what, "val", "image 10", boxes)}


@pytest.mark.fast
def test_equal_boxes_of_two_classes_are_two_objects():
    assert suspected([*plenty(), (11, [GOOD, GOOD], [0, 1])]) == set()


@pytest.mark.fast
def test_crowds_are_not_looked_at():
    entries = [*plenty(), *((11 + i, boxes, classes) for i, (_, boxes, classes) in enumerate(f[0] for f in FAULTS))]
    seen = survey(Pictures(entries), "train")
    crowded = replace(seen, crowd=seen.image >= 10)
    assert {one.what for one in suspicions([crowded], VIEWER)} == {"many images without objects"}
    assert crowded.per_class.tolist() == [10, 10]


@pytest.mark.fast
def test_pixels_in_another_shape_are_another_image():
    tall, wide = Image.new("RGB", (4, 9)), Image.new("RGB", (9, 4))
    assert digest(tall) != digest(wide)
    assert digest(tall) == digest(tall.copy())


@pytest.mark.fast
def test_an_image_of_both_splits_is_leakage():
    assert suspected(plenty(), [*plenty(100), (4, [GOOD], [1])]) == {
        ("image is in split 'train' too", "val", "image 10", ())
    }


@pytest.mark.fast
def test_classes_without_objects():
    lonely = [(seed, boxes, [0, 0]) for seed, boxes, _ in plenty(100)]
    assert suspected(plenty(), lonely) == {("class has objects in other splits only", "val", None, ())}
    assert suspected(lonely, plenty()) == {("class has objects in other splits only", "train", None, ())}
    assert suspected(lonely, plenty()[:0] + lonely[:0]) >= {("class has no object in any split", "", None, ())}
    assert ("class has fewer than 10 objects", "train", None, ()) in suspected(plenty()[:9])
    assert suspected(plenty(), names=("cat", "Cat")) == {("names of two classes are alike", "", None, ())}


@pytest.mark.fast
def test_many_images_without_objects():
    empty = (50, np.zeros((0, 4)), [])
    assert suspected([*plenty(), empty]) == set()
    assert suspected([*plenty(), empty, (51, *empty[1:])]) == {("many images without objects", "train", None, ())}


ALIKE = [("Red Cell", "red_cell"), ("car", "cars"), ("platelet", "plateled"), ("WBC", "wbc")]
NOT_ALIKE = [("class 1", "class 2"), ("RBC", "WBC"), ("cat", "car"), ("left hand", "right hand"), ("a", "b")]


@pytest.mark.fast
def test_names_alike():
    assert [pair for pair in ALIKE if not names_alike(*pair)] == []
    assert [pair for pair in NOT_ALIKE if names_alike(*pair)] == []
    assert [p for space in (labels.COCO, labels.VOC) for p in combinations(space.names, 2) if names_alike(*p)] == []


# --- data on disk -----------------------------------------------------------------------------------------------------


NASTY = "<script>alert(1)</script>"
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def voc(folder, splits):
    """Write a data set: split -> image id -> objects (name, x0, y0, x1, y1). Gives its spec."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number, (split, images) in enumerate(splits.items()):
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in images))
        for seed, (name, objects) in enumerate(images.items()):
            pixels = np.random.default_rng((number, seed)).integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"JPEGImages/{name}.jpg")
            inside = "".join(OBJECT.format(o[0].replace("<", "&lt;"), *o[1:]) for o in objects)
            (folder / f"Annotations/{name}.xml").write_text(f"<annotation>{inside}</annotation>")
    return f"voc(root='{folder}')"


@pytest.fixture
def spec(tmp_path):
    """Data with a box without area, a class of a nasty name, and one image for validation."""
    images = {"a": [("cat", 1, 1, 30, 30), ("cat", 5, 5, 5, 5)], "b": [(NASTY, 10, 10, 40, 35)]}
    return voc(tmp_path / "zoo", {"train": images, "val": {"c": [("cat", 2, 2, 50, 38)]}})


def checked(spec, *splits, **options):
    return check_data(spec, splits or ("train", "val"), detector=detrkit.config("detr_tiny"), **options)


def test_findings_of_the_reader_come_first_and_suspicions_refuse_nothing(spec, tmp_path):
    check = checked(spec)
    assert check.refusals == ()
    assert check.findings[0].what == "box has no area"
    assert check.findings[0].field == "object[1].bndbox"
    text = as_text(check)
    assert "dropped: box has no area" in text
    assert "suspicious: class has fewer than 10 objects (2 times)" in text
    outcome = check.outcome(tmp_path / "page")
    assert outcome.exit_code == 0
    assert outcome.content["splits"]["train"]["classes"] == {NASTY: 1, "cat": 1}
    assert {one["kind"] for one in outcome.content["findings"]} == {"fact", "suspicion"}


def test_a_damaged_image_is_named_and_refused(spec, tmp_path):
    image = tmp_path / "zoo/JPEGImages/b.jpg"
    image.write_bytes(image.read_bytes()[:900])
    check = checked(spec)
    assert [str(one).split(";")[0] for one in check.findings[:1]] == [f"{image}: image cannot be read"]
    assert len(check.refusals) == 1
    assert str(image) in check.refusals[0]
    assert check.outcome(tmp_path).exit_code == 2
    quick = checked(spec, quick=True)
    assert quick.refusals == ()
    assert "image cannot be read" in write_page(quick, tmp_path / "out").read_text(encoding="utf-8")


def test_quick_decodes_nothing_and_says_so(spec, monkeypatch):
    whole = checked(spec)
    monkeypatch.setattr("detrkit.datasets._reading.read_image", None)
    quick = checked(spec, quick=True)
    assert "not looked for, since images were not decoded" in as_text(quick)
    assert "not looked for" not in as_text(whole)
    for one, other in zip(whole.surveys, quick.surveys, strict=True):
        assert [other.file_of(row) for row in range(len(other.ids))] == [
            one.file_of(row) for row in range(len(one.ids))
        ]
        assert one.ids == other.ids
        for name in ("index", "sizes", "image", "boxes", "labels", "crowd"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_split_that_is_missing_is_a_refusal_and_the_other_is_checked(spec):
    check = checked(spec, "train", "trial")
    assert [one.split for one in check.surveys] == ["train"]
    assert len(check.refusals) == 1
    assert "no such split" in check.refusals[0]
    with pytest.raises(DataError, match="no such split"):
        checked(spec, "trial")


@pytest.mark.fast
def test_splits_of_different_classes_and_empty_ones_are_refused():
    class Changing(Pictures):
        def __init__(self, split: str) -> None:
            super().__init__(plenty()[: 3 * (split != "empty")], ("cat", "dog") if split == "train" else ("cat", "cow"))

    with REGISTRY.temporarily("datasets", "changing", Changing):
        check = checked("changing", "train", "val", "empty")
    assert "the split 'empty' is empty" in check.refusals
    assert any("different classes: cat, dog; and cat, cow" in sentence for sentence in check.refusals)


@pytest.mark.fast
def test_name_of_a_data_set(tmp_path):
    assert short_name("toy(size=32)") == "toy"
    assert short_name(f"voc(root='{tmp_path}/zoo')") == "zoo"


# --- pages ------------------------------------------------------------------------------------------------------------


class Structure(HTMLParser):
    """Reads a page; keeps its text, attributes and unclosed elements."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def assert_stands_alone(text):
    """Well-formed, no script, nothing that would be fetched, every picture described, every table headed."""
    page = Structure(text)
    assert page.open == []
    assert "script" not in page.tags
    assert [a for a in page.attributes if a[1].startswith("on") or a[1] == "href"] == []
    assert {value.split(",")[0] for _, name, value in page.attributes if name == "src"} <= {"data:image/jpeg;base64"}
    alts = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert len(alts) == page.tags.count("img")
    assert all(alts)
    assert page.tags.count("table") == page.tags.count("thead")
    assert page.tags.count("svg") == sum(name == "aria-label" for tag, name, _ in page.attributes if tag == "svg")
    assert len(text) < 3_000_000
    return page


def test_page_of_a_data_set(spec, tmp_path):
    page = assert_stands_alone(write_page(checked(spec), tmp_path / "out").read_text(encoding="utf-8"))
    assert NASTY in page.text
    assert "box has no area" in page.text
    assert "box has no area" in (tmp_path / "out/findings.txt").read_text(encoding="utf-8")


@pytest.mark.fast
def test_page_of_data_without_objects(tmp_path):
    class Empty(Pictures):
        def __init__(self, split: str) -> None:
            super().__init__([(None if split == "val" else i, np.zeros((0, 4)), []) for i in range(3)])

    with REGISTRY.temporarily("datasets", "nothing", Empty):
        check = checked("nothing")
        page = assert_stands_alone(write_page(check, tmp_path).read_text(encoding="utf-8"))
    assert "3 of 3 images" in page.text
    assert "and 2 more" in check.refusals[0]


@given(st.text())
@pytest.mark.fast
def test_text_stays_text(text):
    clean = "".join(c for c in text if c.isprintable())
    element = html.tag("p", clean, html.tag("b", clean), title=clean)
    page = Structure(element)
    assert page.text == clean * 2
    assert page.tags == ["p", "b"]
    assert page.attributes == [("p", "title", clean)]
    assert_stands_alone(
        html.page(clean, html.section(clean, html.table([clean], [[clean]]), html.facts({clean: clean})))
    )


@pytest.mark.fast
def test_numbers_for_people():
    values = [1234567, 0.12345, 12.345, 123.45, 1e6, -0.5, float("nan"), None, "text", 0.0, 3.0]
    assert [html.shown(v) for v in values] == [
        "1,234,567", "0.123", "12.3", "123", "1,000,000", "-0.500", "\N{EN DASH}", "\N{EN DASH}", "text", "0.000", "3",
    ]  # fmt: skip


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.booleans())
@pytest.mark.fast
def test_ticks_lie_on_the_axis(low, extent, log):
    low = abs(low) + 1e-3 if log else low
    axis = charts.Axis(low, low + extent, 40, 380, log=log)
    ticks = axis.ticks()
    assert len(ticks) <= 12
    assert ticks == sorted(ticks)
    assert all(39.9 <= axis(value) <= 380.1 for value in ticks)


@pytest.mark.fast
def test_a_chart_says_what_it_shows():
    points = [(step, 2.0) for step in range(1, 1001)]
    drawn = charts.lines({"loss": points, "none": []}, title="<Loss>", x="step")
    page = Structure(drawn)
    assert ("svg", "aria-label", "<Loss> over step: loss ends at 2") in page.attributes
    assert len(charts.thinned(points)) <= charts.POINTS
    assert {value for _, value in charts.thinned(points)} == {2.0}
    for values in ([], [1], [1, 1, 2], np.linspace(0.1, 9, 100)):
        assert "svg" in Structure(charts.histogram(values, title="t", x="x", log=True, mark=(3, "three"))).tags


# --- configurations ---------------------------------------------------------------------------------------------------


@pytest.mark.fast
def test_config_counts_what_is_built():
    detector, train = detrkit.config("detr_tiny", enc_layers=1), detrkit.training_recipe("detr_tiny", batch_size=4)
    model = detrkit.build(detector)
    check = check_config(detector, train)
    assert check.total == (sum(p.numel() for p in model.parameters()),) * 2
    assert (check.preset, set(check.changes)) == ("detr_tiny", {"enc_layers", "batch_size"})
    assert (check.image, check.cells, check.strides[-1]) == ((96, 96), (6, 6), 16)
    double = check_config(detector, train.replace(batch_size=8)).memory
    assert check.memory.activations < double.activations <= 2 * check.memory.activations
    assert check.memory.optimizer == 2 * check.memory.gradients == 8 * check.total[1]


@pytest.mark.fast
def test_activations_are_what_the_way_back_needs():
    """Of two layers the inputs, 2 x 8 and 2 x 4 floats; weights are there already."""
    layers = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    assert activations(layers.to("meta"), (2, 8)) == 4 * (2 * 8 + 2 * 4)

    class Numbers(nn.Module):
        def forward(self, images, mask=None):
            return images.sum().item()

    assert activations(Numbers(), (2, 8)) is None


@pytest.mark.fast
def test_config_counts_what_is_frozen():
    detector, train = detrkit.config("detr_tiny"), detrkit.training_recipe("detr_tiny", freeze="backbone")
    check = check_config(detector, train)
    assert check.parts["backbone"][1] == 0
    assert "% is trained" in check.outcome().text
    with pytest.raises(ConfigError, match="matches no trained parameter"):
        check_config(detector, train.replace(freeze="nothing"))


@pytest.mark.fast
def test_a_finding_of_no_image_has_no_picture(spec, tmp_path):
    check = checked(spec)
    lone = Finding("file is empty", "classes.txt")
    page = write_page(type(check)(check.spec, check.viewer, check.surveys, (lone,), ()), tmp_path / "out")
    assert "classes.txt" in Structure(page.read_text(encoding="utf-8")).text
