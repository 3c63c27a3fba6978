"""Configurations: everything wrong at once, files, differences, golden presets, and no option without effect.

The resolved configuration of every preset stands in ``golden/configs``, so that a changed number shows in review.
Write them anew with ``UPDATE_GOLDEN=1 python -m pytest tests/test_config.py``.
"""

import dataclasses
import json
import os
from pathlib import Path

import pytest

import detrkit
from detrkit.config import DetectorConfig, TrainConfig, difference, read_file
from detrkit.errors import ConfigError, DetrkitError
from detrkit.presets import config, from_pairs, presets, summary, training_recipe, unchecked

pytestmark = pytest.mark.fast

GOLDEN = Path(__file__).parent / "golden" / "configs"


# --- problems ---------------------------------------------------------------------------------------------------------


def test_everything_wrong_is_told_at_once():
    wrong = {
        "num_queries": 0, "dropout": 1.5, "activation": "tanh", "pre_norm": 1, "enc_layers": -1, "d_model": "abc",
        "matcher": "scippy", "encoder_attention": "sdpa(heads=0)", "positional": 3, "long_side": 10,
    }  # fmt: skip
    problems = DetectorConfig().replace(**wrong).problems()
    assert [name for name in wrong if sum(name in line.partition(":")[0] for line in problems) != 1] == []
    assert len(problems) == len(wrong)
    with pytest.raises(ConfigError) as caught:
        DetectorConfig().replace(**wrong).check()
    assert list(caught.value.problems) == problems
    assert str(caught.value).splitlines() == problems


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"matcher": "scippy"}, "matcher: unknown name in role 'matchers'.*did you mean 'scipy'"),
        ({"encoder_attention": "sdpa(head=4)"}, "encoder_attention=sdpa: unknown setting 'head'; did you mean 'heads'"),
        ({"decoder_cross_attention": "matrix(heads=3)"}, "decoder_cross_attention=matrix: d_model=256 .*heads=3"),
        ({"d_model": 252}, "encoder_attention=sdpa: d_model=252 is not divisible by heads=8"),
        ({"d_model": 255, "encoder_attention": "sdpa(heads=5)"}, "positional=sine: .*255"),
        ({"backbone": "tiny(width=9)"}, "backbone=tiny: width: got 9; expected a multiple of 8"),
        ({"set_cost_class": 0, "set_cost_bbox": 0, "set_cost_giou": 0.0}, "needs at least one cost"),
        ({"short_side": 900, "long_side": 800}, "long_side: got 800; expected at least short_side=900"),
        ({"eos_coef": -0.1}, "eos_coef: got -0.1; expected float, at least 0"),
        ({"eos_coef": float("nan")}, "eos_coef: got nan"),
        ({"giou_loss_coef": float("inf")}, "giou_loss_coef: got inf"),
        ({"aux_loss": None}, "aux_loss: got None; expected bool"),
        ({"encoder_attention": None}, "encoder_attention: got None; expected a spec of role 'attention'"),
        ({"backbone": ""}, "backbone: not a spec string"),
    ],
)
def test_problem_of_a_detector(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        DetectorConfig(backbone="tiny").replace(**changes).check()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr": -1}, "lr: got -1; expected float, at least 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"epochs": 0}, "epochs: got 0; expected int, at least 1 or none"),
        ({"data": "coca"}, "data: unknown name in role 'datasets'"),
        ({"data": "toy(objects=(3, 1))"}, "data=toy: objects"),
        ({"schedule": "stp"}, "schedule: got 'stp'; expected one of 'step', 'linear', 'cosine'"),
        ({"schedule": "cosine", "lr_drop": 3}, "lr_drop: no effect with schedule='cosine'"),
        ({"epochs": 3, "steps": 4}, "epochs, steps: got 3 and 4; expected just one"),
        ({"epochs": None}, "epochs, steps: got None and None; expected just one"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_problem_of_a_training(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig().replace(**changes).check()


def test_unknown_field_is_met_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown field 'num_query' of DetectorConfig; did you mean 'num_queries'"):
        DetectorConfig().replace(num_query=3)


def test_incompatible_parts_are_refused_before_a_tensor_exists():
    with pytest.raises(ConfigError, match=r"positional=learned.* and backbone=tiny.* do not fit"):
        detrkit.build("detr_tiny", positional="learned(size=3)")


def test_steps_and_epochs_clear_each_other():
    by_steps = TrainConfig().replace(steps=5)
    assert (by_steps.steps, by_steps.epochs) == (5, None)
    by_epochs = by_steps.replace(epochs=2)
    assert (by_epochs.steps, by_epochs.epochs) == (None, 2)
    assert by_epochs.replace(lr=1.0).epochs == 2


def test_configurations_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DetectorConfig().d_model = 3
    assert hash(DetectorConfig()) == hash(DetectorConfig())
    assert DetectorConfig().replace(d_model=8) != DetectorConfig()


# --- key=value --------------------------------------------------------------------------------------------------------


def test_pairs_are_read_as_their_fields_want():
    detector, train = from_pairs(
        "detr_tiny",
        {"d_model": "64", "positional": "none", "aux_loss": "false", "dropout": 0.5, "lr": "1e-3", "epochs": "7"},
    )
    assert (detector.d_model, detector.positional, detector.aux_loss, detector.dropout) == (64, None, False, 0.5)
    assert (train.lr, train.epochs, train.steps) == (1e-3, 7, None)


def test_pairs_tell_all_mistakes_at_once():
    with pytest.raises(ConfigError) as caught:
        from_pairs("detr_tiny", {"d_modl": "3", "dropout": "2", "lr": "fast", "matcher": "scippy", "shedule": "step"})
    assert len(caught.value.problems) == 5
    assert "unknown field 'd_modl'; did you mean 'd_model'?" in caught.value.problems
    assert "unknown field 'shedule'; did you mean 'schedule'?" in caught.value.problems


def test_pairs_leave_the_preset_alone():
    assert from_pairs("detr_r50", {}) == (unchecked("detr_r50"), training_recipe("detr_r50"))


def test_unknown_preset_is_met_with_the_nearest():
    for ask in (config, training_recipe, summary, unchecked, lambda name: from_pairs(name, {})):
        with pytest.raises(ConfigError, match="unknown preset 'detr_r5'; did you mean 'detr_r50'"):
            ask("detr_r5")


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_toml_is_read(tmp_path):
    path = write(
        tmp_path, "a.toml", 'preset = "detr_tiny"\nd_model = 64\n[train]\nlr = 1e-3\n[detector]\nmatcher = "numpy"\n'
    )
    assert read_file(path) == {"preset": "detr_tiny", "d_model": 64, "lr": 1e-3, "matcher": "numpy"}


def test_what_a_run_saves_is_read(tmp_path):
    detector, train = from_pairs("detr_tiny", {"d_model": 64, "epochs": 2})
    saved = {"detector": detector.to_dict(), "train": train.to_dict(), "environment": {"torch": "2"}}
    fields = read_file(write(tmp_path, "config.json", json.dumps(saved)))
    assert from_pairs("detr_r50", fields) == (detector, train)


def test_unknown_field_of_a_file_is_met_with_its_line(tmp_path):
    path = write(tmp_path, "a.toml", "lr = 1\n\nd_modl = 3\n[detector]\nnum_query = 4\n")
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert set(caught.value.problems) == {
        f"{path}:3: unknown field 'd_modl'; did you mean 'd_model'?",
        f"{path}:5: unknown field 'num_query'; did you mean 'num_queries'?",
    }


BROKEN = {
    "empty.json": b"",
    "cut.json": b'{"detector": {"d_model": 3',
    "html.json": b"<html><body>404</body></html>",
    "list.json": b"[1, 2]",
    "number.json": b"3",
    "bom.json": b"\xef\xbb\xbf{}",
    "utf16.json": '{"lr": 1}'.encode("utf-16"),
    "binary.json": bytes(range(256)),
    "deep.json": b"[" * 100_000,
    "cut.toml": b"lr = ",
    "twice.toml": b"lr = 1\nlr = 2\n",
    "binary.toml": b"\xff\xfe",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_one_line(tmp_path, name):
    path = write(tmp_path, name, BROKEN[name])
    with pytest.raises(DetrkitError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(DetrkitError, match="cannot read the configuration"):
            read_file(path)


# --- difference -------------------------------------------------------------------------------------------------------


def test_difference_names_the_fields_that_differ():
    one = DetectorConfig()
    assert difference(one, one.replace(d_model=64, matcher="numpy")) == {
        "d_model": (256, 64),
        "matcher": ("scipy", "numpy"),
    }
    assert difference(one, one) == {}


def test_difference_compares_specs_by_meaning():
    one = DetectorConfig(backbone="torchvision(model='resnet50', dilation=true)", positional=None)
    assert difference(one, one.replace(backbone="torchvision( dilation = True,model=resnet50)")) == {}
    assert list(difference(one, one.replace(backbone="torchvision(model=resnet50)", positional="sine"))) == [
        "backbone", "positional",
    ]  # fmt: skip


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets())
def test_preset_is_right(name):
    detector, train = config(name), training_recipe(name)
    assert detector.problems() == train.problems() == []
    assert len(summary(name)) > 10


@pytest.mark.parametrize("name", presets())
def test_preset_survives_json(name):
    for one in (unchecked(name), training_recipe(name)):
        assert type(one)(**json.loads(json.dumps(one.to_dict(), allow_nan=False))) == one


@pytest.mark.parametrize("name", presets())
def test_preset_is_the_golden_one(name):
    resolved = {"detector": unchecked(name).to_dict(), "train": training_recipe(name).to_dict()}
    path = GOLDEN / f"{name}.json"
    if "UPDATE_GOLDEN" in os.environ:
        path.write_text(json.dumps(resolved, indent=2) + "\n")
    assert resolved == json.loads(path.read_text())


def test_every_golden_configuration_has_its_preset():
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == presets()
