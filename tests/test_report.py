"""The report of a run: right numbers, nothing from the data taken as HTML, readable without anything else."""

import json

import numpy as np
import pytest
import torch
from test_checks import NASTY, Pictures, assert_stands_alone, plenty

import detrkit
from detrkit.detections import Detections
from detrkit.evaluation.images import mistakes
from detrkit.evaluators import METRICS
from detrkit.labels import LabelSpace
from detrkit.training.report import save_report

NAMES = (NASTY, "dog")


def entries(names):
    """Lines of a log: ten steps, two evaluations of which the first is better."""
    for step in range(1, 11):
        terms = {f"loss_{term}{layer}": 1.0 / step for term in ("ce", "bbox", "giou") for layer in ("_0", "")}
        yield {"kind": "train", "step": step, "loss": 9.0, "grad_norm": 1.0, "lr_factor": 1.0, **terms}
    for step, ap in ((5, 0.625), (10, 0.25)):
        numbers = {**dict.fromkeys(METRICS, ap), **{f"AP/{name}": ap for name in names}, "APl": None}
        yield {"kind": "eval", "step": step, "seconds": 12.0 * step, **numbers}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = detrkit.config("detr_tiny", enc_layers=1, dec_layers=1, num_classes=2)
    return detrkit.build(config, label_space=LabelSpace(NAMES))


@pytest.fixture
def report(tmp_path, model):
    """Writes the report of a run with this log; gives its page."""

    def write(log):
        train = detrkit.training_recipe("detr_tiny", data=f"toy(background='{NASTY}')")
        saved = {"detector": model.config.to_dict(), "train": train.to_dict(), "environment": {"python": NASTY}}
        (tmp_path / "config.json").write_text(json.dumps(saved))
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in log))
        (tmp_path / "findings.txt").write_text(f"a.xml: {NASTY}; dropped\n")
        data = Pictures(plenty()[:3], names=NAMES)
        path = save_report(tmp_path, model, data, train, split="val", threshold=0.0)
        return assert_stands_alone(path.read_text(encoding="utf-8"))

    return write


def test_report_of_a_run(report, tmp_path):
    page = report(entries(NAMES))
    assert page.text.count(NASTY) >= 5
    for piece in ("0.625", "Best of 2 evaluations", "2 min 00 s", "12,000 ms", "Worst images", "1 thing was wrong"):
        assert piece in page.text
    assert "4 fields differ" in page.text
    assert page.tags.count("svg") == 9
    assert page.tags.count("img") == 6
    links = [value for _, name, value in page.attributes if name == "href"]
    assert [link for link in links if "worst.html#" in link] == [f"explorer/worst.html#{i}" for i in (1, 2, 3)]
    for link in links:
        explorer = (tmp_path / link.partition("#")[0]).read_text(encoding="utf-8")
        assert explorer.count('id="image-') == (3 if "worst" in link else explorer.count('id="image-'))


def test_report_of_a_run_that_was_never_scored(report):
    assert "10 steps; nothing was scored." in report(e for e in entries(NAMES) if e["kind"] == "train").text
    assert "0 steps; nothing was scored." in report([]).text


TRUTH = [(0, 0, 40, 40), (50, 50, 90, 90)]
CASES = [
    ([], (0, 2, 0)),
    ([((0, 0, 40, 40), 0), ((50, 50, 90, 90), 1)], (2, 0, 0)),
    ([((0, 0, 40, 40), 1), ((50, 50, 90, 90), 1)], (1, 1, 1)),
    ([((0, 0, 40, 40), 0), ((0, 0, 40, 39), 0)], (1, 1, 1)),
    ([((0, 0, 40, 15), 0)], (0, 2, 1)),
]


def detections(found):
    boxes = np.array([box for box, _ in found], dtype=np.float32).reshape(-1, 4)
    classes = np.array([label for _, label in found], dtype=np.int64)
    scores = np.linspace(0.9, 0.5, len(found)).astype(np.float32)
    return Detections(boxes, classes, scores, (96, 96), LabelSpace(NAMES), np.arange(len(found)))


@pytest.mark.fast
@pytest.mark.parametrize(("found", "counts"), CASES)
def test_mistakes(found, counts):
    _, target = Pictures([(0, TRUTH, [0, 1])])[0]
    assert mistakes(target, detections(found))[1:] == counts


@pytest.mark.fast
def test_what_lies_on_a_crowd_is_no_mistake():
    _, target = Pictures([(0, TRUTH, [0, 1])])[0]
    target["iscrowd"] = torch.tensor([True, False])
    assert mistakes(target, detections([((0, 0, 40, 40), 0), ((0, 0, 40, 39), 0)]))[1:] == (0, 1, 0)
    assert mistakes(target, detections([]))[1:] == (0, 1, 0)
