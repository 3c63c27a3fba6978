"""Every part with every part: builds, learns a step, saves, loads, and predicts the same."""

import itertools

import pytest
import torch

import detrkit
from detrkit.checkpoints import save_detector
from detrkit.config import TrainConfig
from detrkit.criterion import SetCriterion
from detrkit.errors import ConfigError
from detrkit.registry import REGISTRY
from detrkit.training.optimizer import make_optimizer

SMALL = {
    "d_model": 32,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 32,
    "num_queries": 5,
    "short_side": 64,
    "long_side": 64,
    "num_classes": 3,
}
BACKBONES = ["tiny(width=8)", "torchvision(model='shufflenet_v2_x0_5', norm='batch')", "timm(model='test_resnet')"]
PARTS = [
    REGISTRY.builtin("attention"),
    [*REGISTRY.builtin("positional"), None],
    REGISTRY.builtin("matchers"),
    BACKBONES,
]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("attention", PARTS[0])
def test_every_combination_learns_saves_loads_and_predicts_the_same(tmp_path, attention, backbone):
    for number, (positional, matcher) in enumerate(itertools.product(PARTS[1], PARTS[2])):
        torch.manual_seed(number)
        model = detrkit.build(
            "detr_tiny",
            encoder_attention=attention,
            decoder_self_attention=attention,
            decoder_cross_attention=attention,
            positional=positional,
            matcher=matcher,
            backbone=backbone,
            **SMALL,
        )
        images, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
        mask[1, :, 40:] = True
        targets = [{"boxes": torch.rand(n, 4) * 0.3 + 0.2, "labels": torch.arange(n) % 3} for n in (0, 3)]
        optimizer = make_optimizer(model, TrainConfig())
        losses = SetCriterion.from_config(model.config)(model(images, mask), targets)
        losses.total.backward()
        optimizer.step()
        assert torch.isfinite(losses.total)
        save_detector(model, tmp_path / f"{number}.safetensors")
        loaded = detrkit.load(tmp_path / f"{number}.safetensors")
        assert loaded.config == model.config
        with torch.no_grad():
            expected, got = model.eval()(images, mask), loaded(images, mask)
        assert torch.equal(expected.logits, got.logits)
        assert torch.equal(expected.boxes, got.boxes)


@pytest.mark.parametrize(
    ("changes", "both"),
    [
        ({"encoder_attention": "matrix(heads=7)"}, ["encoder_attention=matrix", "d_model"]),
        ({"d_model": 30}, ["positional=sine", "d_model"]),
        ({"positional": "learned(size=3)"}, ["positional=learned(size=3)", "backbone=tiny"]),
        ({"positional": "learned", "d_model": 33}, ["positional=learned", "encoder_attention=sdpa"]),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_a_sentence_that_names_both(changes, both):
    with pytest.raises(ConfigError) as refusal:
        detrkit.build("detr_tiny", **{**SMALL, **changes})
    assert all(name in str(refusal.value) for name in both)
