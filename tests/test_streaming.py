"""Streams of files and frames through `detrkit predict`: sources, COCO results that grow, pictures, what goes wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detrkit
from detrkit.cli import main
from detrkit.detections import Detections
from detrkit.errors import DataError, DetrkitError, WriteError
from detrkit.evaluation import evaluate
from detrkit.images import read_frames, read_image
from detrkit.labels import LabelSpace
from detrkit.streaming import Files, Frame, Items
from detrkit.streaming.frames import Names
from detrkit.streaming.results import GrowingJson, ResultFiles

DATA = "toy(length=3, held_out=12, size=32)"
TINY = [
    "backbone=tiny(width=8)", "d_model=32", "num_queries=5", "enc_layers=1", "dec_layers=1", "dim_feedforward=32",
    f"data={DATA}", "short_side=32", "long_side=64", "batch_size=2", "steps=2", "eval_every=0",
]  # fmt: skip
COLORS = [(40 * i, 255 - 40 * i, 90) for i in range(6)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", "detr_tiny", "--out", str(folder), *TINY]) == 0
    return folder


@pytest.fixture
def call(run, tmp_path, capsys):
    """Predicts with the run into ``out``: exit code, stdout, stderr."""

    def predict(*words, out=tmp_path / "out"):
        capsys.readouterr()
        code = main(["predict", *map(str, (run, *words)), "--out", str(out)])
        return code, *capsys.readouterr()

    return predict


@pytest.fixture
def photos(tmp_path):
    """A folder with images of two sizes, in folders of it too, and files that are none."""
    folder = tmp_path / "photos"
    for place, name in enumerate(("b.png", "a.jpg", "deep/er/a.png", ".hidden/c.png", ".d.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30) if place % 2 else (30, 40), COLORS[place]).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def animation(path, count=6, duration=250):
    """An animated file of plain frames."""
    frames = [Image.new("RGB", (40, 30), color) for color in COLORS[:count]]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, lossless=True)
    return path


def results(folder):
    """The two files of results."""
    return [json.loads((folder / name).read_text()) for name in ("images.json", "detections.json")]


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.fast
def test_folders_are_read_at_any_depth_in_the_order_of_names(photos, tmp_path):
    files = Files([photos, photos / "b.png"])
    frames = list(files)
    assert [frame.name for frame in frames] == ["a", "b", "a-2", "b-2"]
    assert [frame.image_id for frame in frames] == [1, 2, 3, 4]
    assert [frame.path for frame in frames] == [str(photos / n) for n in ("a.jpg", "b.png", "deep/er/a.png", "b.png")]
    assert {(frame.number, frame.time) for frame in frames} == {(None, None)}
    assert len(list(files)) == files.total == 4
    assert (files.left_out, files.still) == (0, True)
    assert len(Files([photos], apart=photos / "deep").paths) == 2


@pytest.mark.fast
@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
@pytest.mark.parametrize("every", [1, 4])
def test_frames_of_an_animation(tmp_path, ending, every):
    """Pages of a TIFF have no time."""
    path = animation(tmp_path / f"clip.{ending}")
    files = Files([path, path], every=every)
    frames = list(files)
    assert len(list(files)) == len(frames)  # may be read again
    assert files.total == len(frames) == 2 * len(range(0, 6, every))
    for frame, number in zip(frames, range(0, 6, every), strict=False):
        assert (frame.name, frame.number) == (f"clip/{number:06d}", number)
        assert frame.time == (None if ending == "tif" else number * 0.25)
        assert np.abs(np.asarray(frame.image).astype(int) - COLORS[number]).max() <= 1
    assert np.array_equal(np.asarray(frames[0].image), np.asarray(read_image(path)))
    assert frames[-1].name.startswith("clip-2/")


@pytest.mark.fast
def test_previews_in_a_photograph_are_no_frames(tmp_path):
    """A TIFF says which of its pages are smaller copies (tag 254); a JPEG may hold a second picture."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[254] = 1
    large, small = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (20, 15), "red")
    small.encoderinfo = {"tiffinfo": tags}
    large.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    large.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small])
    for name in ("a.tif", "a.jpg"):
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 2
        (picture,) = read_frames(tmp_path / name)
        assert (picture.image.size, picture.total, picture.time) == ((40, 30), 1, None)


@pytest.mark.fast
def test_a_damaged_animation_is_read_as_far_as_it_goes(tmp_path, capsys):
    path = animation(tmp_path / "clip.png")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    files = Files([path])
    assert 1 <= len(list(files)) < 6
    assert files.left_out == 1
    assert "kept the" in capsys.readouterr().err


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("missing.png", DataError, "missing.png: no such image file"),
        ("empty", DetrkitError, "empty: the folder holds no images; expected .3gp, .avi, .bmp"),
        ("page.jpg", DataError, "page.jpg: not an image"),
        ("page.mp4", DataError, "page.mp4: "),
        ("page.xyz", DataError, "page.xyz: not an image"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, error, words):
    (tmp_path / "empty").mkdir()
    for ending in ("jpg", "mp4", "xyz"):
        (tmp_path / f"page.{ending}").write_text("<html>")
    with pytest.raises(error) as caught:
        list(Files([tmp_path / name]))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_names_stay_in_their_folder_and_are_given_once():
    names = Names()
    wishes = ["../out", "a/b", "a/b", "a_b-2", "..", "a_b"]
    assert [names.give(wish) for wish in wishes] == ["_out", "a_b", "a_b-2", "a_b-2-2", "image", "a_b-3"]


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.fast
def test_a_growing_file_is_whole_after_each_addition(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("something longer than what follows")
    growing = GrowingJson(path, '{"a": [', '], "done": false}')
    for items, expected in (([], []), ([1], [1]), ([], [1]), ([2, {"ü": 3}], [1, 2, {"ü": 3}])):
        growing.add(items)
        assert json.loads(path.read_text()) == {"a": expected, "done": False}
    growing.close('], "done": true}')
    assert json.loads(path.read_text()) == {"a": [1, 2, {"ü": 3}], "done": True}
    for place in (tmp_path / "none" / "a.json", Path("/dev/full")):
        with pytest.raises(WriteError, match="cannot be written"):
            GrowingJson(place)


@pytest.mark.fast
def test_pycocotools_reads_the_results_and_scores_them_as_our_evaluator(tmp_path):
    """Classes in another order than the data's, one of which the data do not have; scores and boxes that matter."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    data = detrkit.make("datasets", DATA, split="val")
    ids = (30, 7, 12)
    data.label_space = LabelSpace(data.label_space.names, ids)
    model = LabelSpace(("heart", *reversed(data.label_space.names)))
    evaluator, truth = detrkit.make("evaluators", "hotcoco"), []
    with ResultFiles(tmp_path, data.label_space) as files:
        for frame, seen in zip(Items(data), noisy_truth(data, model), strict=True):
            target = data.target(frame.image_id)
            files.add(frame, seen)
            evaluator.add(target, seen.in_space(data.label_space))
            truth += annotations(target, ids, len(truth) + 1)
    assert files.left_out == len(data)
    images, found = results(tmp_path)
    assert images["info"] == {"complete": True}
    assert images["categories"] == [{"id": i, "name": n} for i, n in zip(ids, data.label_space.names, strict=True)]
    (tmp_path / "truth.json").write_text(json.dumps({**images, "annotations": truth}))
    loaded = coco.COCO(str(tmp_path / "images.json")).loadRes(str(tmp_path / "detections.json"))
    assert len(loaded.anns) == len(found) == files.seen - files.left_out
    whole = coco.COCO(str(tmp_path / "truth.json"))
    judge = cocoeval.COCOeval(whole, whole.loadRes(str(tmp_path / "detections.json")), "bbox")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    numbers = evaluator.result()
    assert 0.1 < numbers["AP"] < 0.99
    assert judge.stats[:3] == pytest.approx([numbers["AP"], numbers["AP50"], numbers["AP75"]], abs=1e-9)


def noisy_truth(data, space):
    """What a detector might find, best first, and one object of a class that the data do not have."""
    rng = np.random.default_rng(0)
    for index in range(len(data)):
        target = data.target(index)
        cx, cy, w, h = (32 * target["boxes"].numpy() + rng.normal(0, 1, target["boxes"].shape)).T
        boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
        rows = np.array(data.label_space.rows_of(space))[target["labels"].numpy()]
        boxes, labels = np.concatenate([boxes, [[1, 1, 9, 9]]]).astype(np.float32), np.append(rows, 0)
        scores = np.sort(rng.random(len(labels), np.float32).round(3))[::-1]
        yield Detections(boxes, labels, scores, (32, 32), space, np.arange(len(labels)))


def annotations(target, ids, first):
    """The truth of an image as COCO writes it."""
    for number, (box, label) in enumerate(
        zip(32 * target["boxes"].numpy().astype(float), target["labels"], strict=True)
    ):
        cx, cy, w, h = box.tolist()
        yield {
            "id": first + number, "image_id": target["image_id"], "category_id": ids[label], "iscrowd": 0,
            "bbox": [cx - w / 2, cy - h / 2, w, h], "area": w * h,
        }  # fmt: skip


@pytest.mark.fast
def test_an_unfinished_stream_leaves_files_that_say_so(tmp_path):
    space = LabelSpace(("cat",))
    none = Detections(np.zeros((0, 4), np.float32), *[np.zeros(0, int)] * 2, (30, 40), space, np.zeros(0, int))
    files = ResultFiles(tmp_path, space)
    files.add(Frame(Image.new("RGB", (40, 30)), "clip/000003", 1, "clip.gif", 3, 0.5), none)
    assert results(tmp_path)[0]["info"] == {"complete": False}
    files.__exit__(KeyboardInterrupt, None, None)
    images, found = results(tmp_path)
    assert (images["info"], found) == ({"complete": False}, [])
    entry = {"id": 1, "file_name": "clip.gif", "width": 40, "height": 30, "frame": 3, "time": 0.5}
    assert images["images"] == [entry]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_results_of_a_split_score_as_eval_says(run, call, tmp_path):
    """All of them, in the ids of the data; told once more on stdout."""
    code, out, err = call("--threshold", 0, "--json", "--draw", "none", "--batch-size", 5)
    images, found = results(tmp_path / "out")
    assert (code, len(found), len(json.loads(out))) == (0, 60, 12)
    assert [image["id"] for image in images["images"]] == list(range(12))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["detections.json", "images.json"]
    model, data = detrkit.load(run), detrkit.make("datasets", DATA, split="val")
    expected = [entry for index, one in enumerate(evaluate(model, data)[1]) for entry in one.to_coco(index)]
    for key in ("image_id", "category_id"):
        assert [entry[key] for entry in found] == [entry[key] for entry in expected]
    for key in ("score", "bbox"):
        assert np.allclose([entry[key] for entry in found], [entry[key] for entry in expected], atol=2e-3)
    assert "12 images in" in err


def test_sources_of_the_same_pixels_give_the_same_answers(call, tmp_path):
    """As frames of an animation, as files of a folder, and one by one in another batch size."""
    animation(tmp_path / "clip.webp")
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, color in enumerate(COLORS):
        Image.new("RGB", (40, 30), color).save(folder / f"{number}.png")
    found = []
    for words in ([tmp_path / "clip.webp"], [folder, "--batch-size", 1], sorted(folder.iterdir())):
        assert call("--threshold", 0, "--draw", "none", *words)[0] == 0
        found.append(results(tmp_path / "out")[1])
    assert len(found[0]) == 30
    for other in found[1:]:
        for key in ("image_id", "score", "bbox"):
            assert np.allclose([entry[key] for entry in other], [entry[key] for entry in found[0]], atol=2e-3)


def test_pictures_are_drawn_as_asked_and_attention_where_images_are_few(call, photos, tmp_path):
    clip = animation(tmp_path / "clip.gif", 3)
    written = {}
    for name, words in {
        "default": [photos], "attention": [clip, "--draw", "attention"], "boxes": [photos, clip, "--draw", "boxes"],
        "many": [photos, clip, "--every", 2],
    }.items():  # fmt: skip
        out = tmp_path / name
        assert call("--threshold", 0, *words, out=out)[0] == 0
        written[name] = {str(path.relative_to(out)) for path in out.rglob("*") if path.suffix != ".json"}
        written[name] -= {"clip"}
    drawn = {"a.png", "b.png", "a-2.png"}
    assert written["default"] == drawn | {f"{stem}.attention.png" for stem in ("a", "b", "a-2")}
    assert written["boxes"] == drawn | {f"clip/{number:06d}.jpg" for number in range(3)}
    assert written["many"] == drawn | {"clip/000000.jpg", "clip/000002.jpg"}
    assert written["attention"] == {f"clip/00000{n}{end}" for n in range(3) for end in (".jpg", ".attention.png")}


def test_broken_files_of_a_folder_are_counted(call, photos):
    (photos / "broken.jpg").write_bytes(b"")
    (photos / "deep/broken.mp4").write_bytes(b"no video")
    code, out, err = call(photos, "--draw", "none")
    assert (code, len(out.splitlines())) == (0, 3)
    assert "2 files left out" in err
    assert sum(line.endswith("; left out") for line in err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{photos}", "--split", "val"], "give either images, or --data and --split"),
        (["{photos}", "{photos}/none.png"], "none.png: no such image file"),
        (["{photos}/broken.jpg"], "broken.jpg: file is empty"),
        (["{bad}"], "no image to look at"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(call, photos, tmp_path, words, said):
    (photos / "broken.jpg").write_bytes(b"")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/broken.jpg").write_bytes(b"")
    code, out, err = call(*(word.format(photos=photos, bad=tmp_path / "bad") for word in words))
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_pictures_do_not_replace_the_images(call, photos):
    before = (photos / "b.png").read_bytes()
    code, _, err = call(photos, out=photos)
    assert (code, (photos / "b.png").read_bytes()) == (2, before)
    assert "choose another --out" in err
    assert call(photos, "--draw", "none", out=photos)[0] == 0


def test_ctrl_c_leaves_what_was_done(call, photos, tmp_path, monkeypatch):
    from detrkit.streaming import command

    told = []

    def draw(*_):
        told.append(1)
        if len(told) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "draw", draw)
    code, out, err = call(photos, "--json", "--batch-size", 1)
    images, _ = results(tmp_path / "out")
    assert (code, len(json.loads(out)), len(images["images"])) == (130, 1, 2)
    assert images["info"] == {"complete": False}
    assert "1 image in" in err
