"""Every part with every part: builds, learns a step, saves, loads, and predicts the same."""

import itertools

import pytest
import torch
from twins import TWINS

import detrkit
from detrkit.checkpoints import save_detector
from detrkit.config import TrainConfig
from detrkit.criterion import SetCriterion
from detrkit.errors import ConfigError
from detrkit.registry import REGISTRY
from detrkit.testing.tensors import check_close
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
        check_learning_saving_and_loading(model, tmp_path / f"{number}.safetensors")


DESCENDANTS = [name for name in TWINS if name != "detr_tiny"]
PLACES = ["encoder_attention", "decoder_self_attention", "decoder_cross_attention"]


def dense_places(config):
    """Where a detector reads by a dense attention."""
    return [place for place in PLACES if getattr(config, place) in REGISTRY.builtin("attention")]


@pytest.mark.parametrize("attention", REGISTRY.builtin("attention"))
@pytest.mark.parametrize("name", DESCENDANTS)
def test_every_dense_attention_in_every_member(tmp_path, name, attention):
    torch.manual_seed(0)
    places = dense_places(detrkit.config(name))
    assert places
    model = detrkit.build(name, **{**SMALL, "d_model": 64}, **dict.fromkeys(places, attention))
    check_learning_saving_and_loading(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", DESCENDANTS)
@torch.no_grad()
def test_dense_attentions_are_one_function_in_every_member(name):
    options = {**SMALL, "d_model": 64}
    model = detrkit.build(name, **options).double().eval()
    images, mask, _ = batch()
    expected = model(images.double(), mask)
    for attention in REGISTRY.builtin("attention"):
        places = dict.fromkeys(dense_places(model.config), attention)
        other = detrkit.build(name, **options, **places).double().eval()
        other.load_state_dict(model.state_dict())
        check_close(other(images.double(), mask), expected, f"with {attention}", rtol=1e-10)


@pytest.mark.parametrize("sampler", REGISTRY.builtin("samplers"))
@pytest.mark.parametrize("name", [name for name in DESCENDANTS if "deformable" in name or "dino" in name])
def test_every_sampler_in_every_member(tmp_path, name, sampler):
    torch.manual_seed(0)
    spec = f"deformable(sampler={sampler})"
    model = detrkit.build(name, **{**SMALL, "d_model": 64}, encoder_attention=spec, decoder_cross_attention=spec)
    check_learning_saving_and_loading(model, tmp_path / "a.safetensors")


def batch():
    """Two images, one of them padded, with targets: none in the first."""
    images, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[1, :, 40:] = True
    targets = [{"boxes": torch.rand(n, 4) * 0.3 + 0.2, "labels": torch.arange(n) % 3} for n in (0, 3)]
    return images, mask, targets


def check_learning_saving_and_loading(model, path):
    """Assert that it does."""
    images, mask, targets = batch()
    optimizer = make_optimizer(model, TrainConfig())
    losses = SetCriterion.from_config(model.config)(model(images, mask, targets), targets)
    losses.total.backward()
    optimizer.step()
    assert torch.isfinite(losses.total)
    save_detector(model, path)
    loaded = detrkit.load(path)
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
        ({"denoising": "contrastive"}, ["denoising=contrastive", "queries=positions"]),
        ({"decoder_cross_attention": "deformable"}, ["decoder_cross_attention=deformable", "queries=positions"]),
        ({"decoder_cross_attention": "conditional"}, ["decoder_cross_attention=conditional", "placement=fixed"]),
        ({"encoder_attention": "conditional"}, ["encoder_attention=conditional", "positional=sine"]),
        ({"encoder_attention": "separate", "positional": None}, ["encoder_attention=separate", "positional=None"]),
        (
            {"encoder_attention": "separate", "position_at": "input"},
            ["encoder_attention=separate", "position_at=input"],
        ),
        ({"decoder_self_attention": "separate", "queries": "content"}, ["self_attention=separate", "queries=content"]),
        ({"decoder_self_attention": "deformable", "queries": "points"}, ["tokens in levels", "queries=points"]),
        ({"placement": "modulated"}, ["placement=modulated", "queries=positions"]),
        ({"placement": "conditional"}, ["placement=conditional", "decoder_cross_attention=sdpa"]),
        ({"placement": "sine", "queries": "two_stage"}, ["placement=sine", "queries=two_stage", "both"]),
        ({"queries": "mixed"}, ["queries=mixed", "classification=softmax"]),
        ({"refinement": "iterative"}, ["refinement=iterative", "queries=positions"]),
        ({"reference_eps": 0.1}, ["reference_eps", "queries=positions"]),
        ({"classification": "focal", "eos_coef": 0.5}, ["eos_coef", "classification=focal"]),
        ({"queries": "points", "refinement": "iterative", "dec_layers": 1}, ["refinement", "dec_layers=1"]),
        ({"share_heads": False, "aux_loss": False}, ["share_heads", "aux_loss=False"]),
        ({"scale_positions": True, "enc_layers": 0}, ["scale_positions", "encoder"]),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_a_sentence_that_names_both(changes, both):
    with pytest.raises(ConfigError) as refusal:
        detrkit.build("detr_tiny", **{**SMALL, **changes})
    assert all(name in str(refusal.value) for name in both)
