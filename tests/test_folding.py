"""Folded copies: the same answers, faster by construction, and never mistaken for the model they were made of."""

from copy import deepcopy

import pytest
import torch
from parity import draw_scene, randomize_
from torch import nn

import detrkit
from detrkit.backbones import Backbone
from detrkit.convolution import RepConv
from detrkit.errors import ConfigError
from detrkit.folding import WITH_FIXED_STATISTICS, convolutions_before, folded
from detrkit.queries._groups import GroupedQueries

TRUNKS = [
    "torchvision(model='resnet18')",
    "torchvision(model='resnet18', norm='batch')",
    "torchvision(model='mobilenet_v3_small')",
    "torchvision(model='shufflenet_v2_x0_5')",
    "torchvision(model='densenet121')",
    "torchvision(model='convnext_tiny')",
    "resnet_vd(model='r18')",
    "resnet_vd(model='r50', norm='batch')",
    "tiny",
    "timm(model='test_resnet')",
    "timm(model='test_efficientnet', norm='batch')",
    "timm(model='test_vit')",
]
TWINS = [name for name in detrkit.presets() if detrkit.config(name).short_side == 96]
ALL_FOLDED = {*TRUNKS} - {"torchvision(model='densenet121')"}


@torch.no_grad()
def alive(module):
    """Every norm does something; in float64."""
    torch.manual_seed(0)
    for part in module.double().modules():
        if isinstance(part, WITH_FIXED_STATISTICS):
            for entry in (part.weight, part.bias, part.running_mean):
                entry.add_(0.2 * torch.randn_like(entry))
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()


def norms(module):
    return [part for part in module.modules() if isinstance(part, WITH_FIXED_STATISTICS)]


def farthest(found, expected):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def last(output):
    """The answer: logits and boxes of the last layer."""
    return output.pred_logits, output.pred_boxes


@pytest.mark.parametrize(
    "spec", [pytest.param(s, marks=() if s.startswith("timm") else pytest.mark.fast) for s in TRUNKS]
)
@torch.no_grad()
def test_a_folded_trunk_says_the_same(spec):
    trunk = alive(detrkit.make("backbones", spec))
    copy, images = folded(trunk), torch.randn(2, 3, 70, 99, dtype=torch.float64)
    assert farthest(copy(images), trunk(images)) < 1e-11
    assert farthest(copy.float()(images.float()), trunk(images)) < 1e-5
    assert not norms(copy) or spec not in ALL_FOLDED
    if norms(trunk):
        assert len(norms(copy)) < len(norms(trunk))


@pytest.mark.fast
@torch.no_grad()
def test_the_model_itself_is_not_touched():
    trunk = alive(detrkit.make("backbones", TRUNKS[1])).train()
    before, images = deepcopy(trunk.state_dict()), torch.randn(1, 3, 33, 65, dtype=torch.float64)
    copy = folded(trunk)
    assert trunk.training
    assert not copy.training
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    after = trunk.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], entry) for name, entry in before.items())
    assert torch.equal(folded(trunk)(images)[-1], copy(images)[-1])


@pytest.mark.fast
def test_a_copy_cannot_be_saved_or_trained():
    copy = folded(detrkit.make("backbones", TRUNKS[0]))
    with pytest.raises(ConfigError, match="folded model has no state dict"):
        copy.state_dict()
    assert not any(level.requires_grad for level in copy(torch.randn(1, 3, 33, 65)))


@pytest.mark.fast
@pytest.mark.parametrize("exact", [False, True])
@torch.no_grad()
def test_a_folded_detector_says_the_same(exact):
    model = detrkit.build("detr_tiny", backbone="torchvision(model='resnet18')", padding_exact=exact)
    alive(model.backbone)
    model.double().eval()
    images, mask = torch.randn(2, 3, 96, 96, dtype=torch.float64), torch.zeros(2, 96, 96, dtype=torch.bool)
    mask[1, 50:], mask[1, :, 70:] = True, True
    images[1, :, 50:] = 3.0  # seen by what does not hide it
    copy = folded(model)
    assert farthest(last(copy(images, mask)), last(model(images, mask))) < 1e-10
    assert farthest(last(copy(images)), last(model(images))) < 1e-10
    assert copy.label_space == model.label_space


@pytest.mark.fast
@torch.no_grad()
def test_convolutions_of_neck_and_encoder_fold_too():
    """Of the hybrid encoder one plain convolution is left for each, also where it was two (RT-DETR)."""
    model = alive(detrkit.build("rt_detr_tiny", backbone="resnet_vd(model='r18')", num_queries=5))
    copy, images = folded(model), torch.rand(2, 3, 96, 64, dtype=torch.float64)
    assert norms(copy) == []
    assert farthest(last(copy(images)), last(model(images))) < 1e-11
    assert farthest(last(copy.float()(images.float())), last(model(images))) < 1e-5
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in each.encoder.modules()) for each in (model, copy)]
    assert convolutions[0] - convolutions[1] == 2  # the small branches of one block up and one down
    assert len(norms(model)) > 30, "the model itself was folded"


@pytest.mark.parametrize("name", TWINS)
@torch.no_grad()
def test_every_member_says_the_same(name):
    """With statistics, scales and heads as training leaves them, in float32 as in float64."""
    model = randomize_(detrkit.build(name), torch.Generator().manual_seed(0)).eval()
    square = model.config.square
    images, mask = draw_scene(torch.Generator().manual_seed(1), (96, 96), (96, 96) if square else (64, 80))
    expected = model(images.float(), None if square else mask)
    assert expected.pred_boxes.std(1).max() > 0.01, "queries that agree would hide mistakes"
    copy = model.for_inference()
    found = copy(images.float(), None if square else mask)
    scores = [model.classification.scores(output.pred_logits) for output in (found, expected)]
    assert farthest(scores[1], scores[0]) <= 1e-5
    assert farthest(expected.pred_boxes, found.pred_boxes) <= 1e-5
    assert len(found.logits) == 1
    model.double()
    assert farthest(last(model.for_inference()(images, mask)), last(model(images, mask))) < 1e-10
    assert copy.denoising is None
    assert not any(isinstance(part, RepConv | GroupedQueries) for part in copy.modules())
    assert not any(isinstance(norm, nn.BatchNorm2d) for norm in norms(copy))


GONE = {
    "dn_detr_tiny": ["queries.labels.weight"],  # but for one row
    "dino_tiny": ["queries.labels.weight"],
    "rt_detr_tiny": ["queries.labels.weight", "class_embed.0.bias", "encoder.top_down.0.blocks.0.narrow.conv.weight"],
    "lw_detr_small_tiny": ["queries.groups.1.class_embed.weight", "backbone.blocks.0.ls1.gamma"],
    "rf_detr_tiny": ["queries.groups.1.class_embed.weight", "backbone.mask_token", "backbone.blocks.0.ls1.gamma"],
}


@pytest.mark.parametrize("name", GONE)
def test_what_only_training_asks_for_is_gone(name):
    model = detrkit.build(name)
    copy = model.for_inference()
    before, after = (dict(each.named_parameters()) for each in (model, copy))
    for gone in GONE[name]:
        assert gone in before
        assert gone not in after or len(after[gone]) < len(before[gone])
    assert sum(p.numel() for p in after.values()) < sum(p.numel() for p in before.values())


@pytest.mark.fast
@torch.no_grad()
def test_channels_are_last_in_memory():
    (*_, found) = folded(detrkit.make("backbones", TRUNKS[0]))(torch.randn(1, 3, 64, 64))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.is_contiguous()


class Odd(Backbone):
    """A convolution that is read by its norm, and by something else, or used twice."""

    channels, strides = (4,), (1,)

    def __init__(self, twice):
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), twice

    def forward(self, images):
        x = self.conv(images)
        return [self.norm(x) + (self.conv(images) if self.twice else x)]


@pytest.mark.fast
@torch.no_grad()
def test_what_cannot_be_folded_is_left_or_refused():
    odd = alive(Odd(twice=True))
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert not list(convolutions_before(odd, images))
    assert farthest(folded(odd)(images), odd(images)) < 1e-11
    with pytest.raises(ConfigError, match="Odd: its norms cannot be folded"):
        folded(alive(Odd(twice=False)))
