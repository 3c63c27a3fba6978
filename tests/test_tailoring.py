"""Configurations changed by path, and presets that look at the data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.changes import changed
from detrkit.checks.survey import survey
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.errors import ConfigError
from detrkit.labels import LabelSpace
from detrkit.presets import from_pairs, training_recipe
from detrkit.presets.small_data import small_data
from detrkit.tailoring import tailor

BOTH = (DetectorConfig(), TrainConfig())

# --- FIELD.SETTING=VALUE ----------------------------------------------------------------------------------------------


def test_settings_of_specs_are_changed_and_read_as_they_want():
    (detector, train), found = changed(BOTH, {"backbone.dilation": "true", "transforms.flip": "0", "d_model": "64"})
    assert not found
    assert detector.backbone == "torchvision(model='resnet50', trainable_levels=3, dilation=True)"
    assert (train.transforms, detector.d_model) == ("detr(flip=0)", 64)


def test_a_setting_goes_into_the_spec_that_is_given_with_it():
    (detector, _), found = changed(BOTH, {"backbone.width": "8", "backbone": "tiny(depth=1)"})
    assert (detector.backbone, found) == ("tiny(depth=1, width=8)", [])


def test_what_cannot_be_followed_is_told_line_by_line_and_the_rest_is_changed():
    (detector, _), found = changed(
        BOTH, {"weights": "a.pth", "d_modl": 3, "d_model.x": 1, "denoising.n": 1, "dropout": 0.5}
    )
    assert found == [
        "unknown field 'weights'; did you mean 'backbone.weights'?",
        "unknown field 'd_modl'; did you mean 'd_model'?",
        "d_model is no spec and has no settings",
        "there is no denoising whose n could be set",
    ]
    assert detector.dropout == 0.5


def test_an_unknown_setting_is_met_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'dilation'"):
        from_pairs("detr_r50", {"backbone.dilatoin": "true"})


# --- looking at the data ----------------------------------------------------------------------------------------------


class Fake:
    """Images without pixels: sizes, and boxes as (cx, cy, w, h) fractions."""

    findings = ()

    def __init__(self, sizes, boxes, names=("cell", "dot")):
        self.sizes, self.boxes, self.label_space = sizes, boxes, LabelSpace(tuple(names), tuple(range(len(names))))

    def __len__(self):
        return len(self.sizes)

    def target(self, index):
        boxes = torch.tensor(self.boxes[index], dtype=torch.float32).reshape(-1, 4)
        return {
            "boxes": boxes,
            "labels": torch.zeros(len(boxes), dtype=torch.int64),
            "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
            "image_id": index,
            "orig_size": torch.tensor(self.sizes[index]),
        }


def fitted(data, **given):
    """The recipe fitted to fake data."""
    configs, found = changed((small_data(), training_recipe("small_data", data="toy")), given)
    assert not found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrkit.tailoring._survey", lambda train: survey(data, "train", quick=True))
        return tailor(small_data.rules, configs, given)


sides = st.integers(16, 4000)
box = st.tuples(*[st.floats(0.2, 0.8)] * 2, *[st.floats(0.001, 0.3)] * 2)
data = st.lists(st.tuples(st.tuples(sides, sides), st.lists(box, max_size=40)), min_size=1, max_size=12).map(
    lambda items: Fake([size for size, _ in items], [boxes for _, boxes in items])
)


@settings(max_examples=30, deadline=None)
@given(data=data)
def test_whatever_the_data_the_result_is_right_and_bounded(data):
    (detector, train), choices = fitted(data)
    detector.check(), train.check()
    assert detector.short_side % 32 == detector.long_side % 32 == 0
    assert detector.long_side <= 2 * detector.short_side
    assert 32 <= detector.short_side <= 448
    most = max(map(len, data.boxes))
    assert detector.num_queries >= min(300, 2 * most)
    steps = train.epochs * -(-len(data) // 8)
    assert steps >= training_recipe("small_data").steps
    assert train.epochs >= 12
    assert all(choice.why for choice in choices)


def test_smaller_objects_make_larger_images_until_the_limit():
    def short_side(share):
        return fitted(Fake([(480, 640)] * 20, [[(0.5, 0.5, share, share * 4 / 3)]] * 20))[0][0].short_side

    found = [short_side(share) for share in (0.4, 0.1, 0.08, 0.04, 0.01)]
    assert found == sorted(found)
    assert found[0] < found[2] < found[-1] <= 448


def test_upright_beside_wide_images_are_made_smaller_since_batches_are_padded():
    def sides(*sizes):
        detector = fitted(Fake(list(sizes) * 10, [[(0.5, 0.5, 0.01, 0.01)]] * 10 * len(sizes)))[0][0]
        return detector.short_side, detector.long_side

    wide, upright, both = sides((480, 640)), sides((640, 480)), sides((480, 640), (640, 480))
    assert wide == upright == (384, 512)
    assert both == (320, 448)  # a batch is 448 x 448, as many pixels as 384 x 512


def test_many_images_get_epochs_and_few_get_steps():
    few, many = (fitted(Fake([(96, 96)] * n, [[(0.5, 0.5, 0.2, 0.2)]] * n))[0][1] for n in (16, 4000))
    assert (few.epochs * 2, many.epochs) == (training_recipe("small_data").steps, 12)


GIVEN = {"num_queries": "7", "short_side": "96", "long_side": "160", "steps": "5", "eval_every": "2", "lr": "0.1"}


@pytest.mark.parametrize("name", GIVEN)
def test_what_the_user_gives_stays(name):
    seen = Fake([(480, 640)] * 3, [[(0.5, 0.5, 0.2, 0.2)] * 9] * 3)
    given = {name: GIVEN[name], **({"short_side": "96"} if name == "long_side" else {})}
    configs, choices = fitted(seen, **given)
    values = {**configs[0].to_dict(), **configs[1].to_dict()}
    assert str(values[name]) == GIVEN[name]
    assert not {choice.path for choice in choices} & {*given, *(["epochs"] if name == "steps" else [])}


def test_a_given_spec_is_left_alone():
    seen = Fake([(96, 96)], [[]], names=("left_hand", "right_hand"))
    assert fitted(seen)[0][1].transforms == "small(flip=0.0)"
    assert fitted(seen, **{"transforms.jitter": "0.5"})[0][1].transforms == "small(jitter=0.5, flip=0.0)"
    assert fitted(seen, transforms="detr")[0][1].transforms == "detr"
    (detector, train), _ = fitted(seen, backbone="tiny(depth=2, stride=32)")
    assert (detector.backbone, train.lr_backbone) == (
        "tiny(depth=2, stride=32)",
        training_recipe("small_data").lr_backbone,
    )


@pytest.mark.parametrize("cached", [True, False])
def test_the_trunk_is_pretrained_where_that_is_possible(monkeypatch, cached):
    monkeypatch.setattr("detrkit.backbones.torchvision.has_published_weights", lambda model: cached)
    (detector, train), choices = fitted(Fake([(96, 96)], [[]]))
    assert ("weights='imagenet'" in detector.backbone) == cached
    assert ("norm='batch'" in detector.backbone, train.lr_backbone == train.lr) == (not cached, not cached)
    assert "backbone" in choices[0].path
    given = fitted(Fake([(96, 96)], [[]]), **{"backbone.weights": "a.pth"})[0]
    assert given[0].backbone == "torchvision(model='shufflenet_v2_x0_5', weights='a.pth')"
    assert given[1].lr_backbone == training_recipe("small_data").lr_backbone


def test_without_data_nothing_is_decided():
    assert from_pairs("small_data", {}) == (detrkit.config("small_data"), training_recipe("small_data"))


def test_choices_are_told_and_kept_with_the_run(tmp_path, capsys):
    from detrkit.cli import main

    small = "data=toy(size=64, length=16, held_out=8)", "steps=2", "short_side=64", "eval_every=1", "device=cpu"
    assert main(["train", "small_data", *small, "--out", str(tmp_path / "run")]) == 0
    told = [
        line.removeprefix("chosen: ") for line in capsys.readouterr().err.splitlines() if line.startswith("chosen: ")
    ]
    assert (tmp_path / "run/reasons.txt").read_text().splitlines() == told
    assert any(line.startswith("num_queries=20: ") for line in told)
    assert "Chosen for the data" in (tmp_path / "run/report.html").read_text()
    assert small_data().num_queries == 80  # the preset itself is as it was
