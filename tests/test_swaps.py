"""Every part in every member, one at a time: it learns a step, or is refused by a line that names both parts."""

import re

import pytest
import torch
from twins import TWINS

import detrkit
from detrkit.config import DetectorConfig
from detrkit.criterion import SetCriterion
from detrkit.errors import ConfigError
from detrkit.fields import roles_of
from detrkit.registry import REGISTRY

MEMBERS = list({detrkit.config(name): name for name in TWINS}.values())  # RT-DETR and its second version are one net
SIDE = 48
SMALL = {
    "d_model": 64, "dim_feedforward": 16, "num_queries": 5, "num_classes": 3, "enc_layers": 1, "dec_layers": 2,
    "short_side": SIDE, "long_side": SIDE,
}  # fmt: skip
BLOCKS = "width=16, depth=2, heads=2, patch=8, grid=6, windows=2, taken=(1, 2)"
SMALL_BACKBONES = {
    "tiny": "tiny(width=8)",
    "vit": f"vit({BLOCKS}, windowed=(0,))",
    "dinov2": f"dinov2({BLOCKS})",
    "torchvision": "torchvision(model='shufflenet_v2_x0_5', norm='batch')",
    "timm": "timm(model='test_resnet')",
    "resnet_vd": "resnet_vd(model='r18')",
}
SLOW = {"torchvision", "timm", "resnet_vd"}
ANNOTATIONS = DetectorConfig.annotations()
FIELDS = [name for name, annotation in ANNOTATIONS.items() if roles_of(annotation)]
OPTIONAL = {"positional", "decoder_self_attention", "denoising"}
DENSE = REGISTRY.builtin("attention")
PLACES = ["encoder_attention", "decoder_self_attention", "decoder_cross_attention"]


def choices(field):
    """Everything that may stand in a field, with its own settings."""
    if field == "refinement":
        return ["none", "iterative", "look_twice"]
    if field == "backbone":
        assert set(SMALL_BACKBONES) == set(REGISTRY.builtin("backbones"))
        return list(SMALL_BACKBONES.values())
    found = [name for role in roles_of(ANNOTATIONS[field]) for name in REGISTRY.builtin(role)]
    if "deformable" in found:
        found += [f"deformable(sampler={sampler})" for sampler in REGISTRY.builtin("samplers")]
    return [*found, None] if field in OPTIONAL else found


def always_fits(config, field, choice):
    """Whether nothing may refuse it: what others neither need nor see, and one dense attention for another."""
    if field in PLACES:
        samplers = "deformable" in str(choice) and "deformable" in str(getattr(config, field))
        return samplers or (choice in DENSE and getattr(config, field) in DENSE)
    return field in {"matcher", "selection"}


def batch():
    """Two images, one of them padded, with targets: none in the first."""
    generator = torch.Generator().manual_seed(0)
    images, mask = torch.randn(2, 3, SIDE, SIDE, generator=generator), torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    mask[1, :, 32:] = True
    boxes = [torch.rand(count, 4, generator=generator) * 0.3 + 0.2 for count in (0, 3)]
    return images, mask, [{"boxes": part, "labels": torch.arange(len(part))} for part in boxes]


def check_learns(model):
    """A step of training moves every parameter that is trained."""
    images, mask, targets = batch()
    total = SetCriterion.from_config(model.config)(model.train()(images, mask, targets), targets).total
    assert total.isfinite()
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def check_refusal(problems, field):
    """Every line of it names the part swapped in and another field."""
    for line in problems:
        assert "\n" not in line
        named = {name for name in re.findall(r"(\w+)(?:=|: )", line) if name in ANNOTATIONS}
        assert field in named, line
        assert len(named) > 1, line


def check_swap(name, field, choice):
    """Assert that it learns or is refused as it should be."""
    torch.manual_seed(0)
    config = detrkit.config(name)
    try:
        model = detrkit.build(config, **SMALL, **{field: choice})
    except ConfigError as refusal:
        model, found = None, refusal.problems
    if model is not None:
        check_learns(model)
    else:
        assert not always_fits(config, field, choice), found
        check_refusal(found, field)


def fast(field, choice):
    return field != "backbone" or choice.partition("(")[0] not in SLOW


SWAPS = [
    pytest.param(field, choice, id=f"{field}={choice}", marks=() if fast(field, choice) else pytest.mark.nightly)
    for field in (*FIELDS, "refinement")
    for choice in choices(field)
]


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize(("field", "choice"), SWAPS)
def test_a_part_learns_in_every_member_or_is_refused_by_both_names(name, field, choice):
    check_swap(name, field, choice)
