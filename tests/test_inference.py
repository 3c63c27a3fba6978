"""Copies for inference: the same answers by every road, and each setting does what it says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import detrkit
from detrkit.errors import ConfigError
from detrkit.folding import WITH_FIXED_STATISTICS
from detrkit.inference import HAS_ONEDNN, FastProducts

TRUNK = "torchvision(model='resnet18')"


@pytest.fixture
def model():
    """A detector whose frozen norms do something, and whose boxes differ from query to query."""
    torch.manual_seed(0)
    made = detrkit.build("detr_tiny", backbone=TRUNK, short_side=64, long_side=96).train()
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, WITH_FIXED_STATISTICS):
                part.running_var.uniform_(0.5, 1.5)
                part.bias.normal_(std=0.1)
    return made


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def apart(found, expected):
    """Of the last layer, which a folded copy answers with alone."""
    return max(float((a[-1] - b[-1]).abs().max()) for a, b in zip(found.pair, expected.pair, strict=True))


def answers(model, images, mask=None):
    with torch.no_grad():
        return model.eval()(images, mask)


@pytest.mark.fast
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("preset", ["detr_tiny", "deformable_detr_tiny_refine", "dino_tiny"])
def test_a_copy_says_the_same(preset, fold, images):
    torch.manual_seed(0)
    model = detrkit.build(preset)
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 70:] = True
    copy = model.for_inference(fold=fold)
    assert apart(copy(images, mask), answers(model, images, mask)) < 2e-5
    double = model.double().for_inference(fold=fold)
    assert apart(double(images.double(), mask), answers(model, images.double(), mask)) < 1e-10


@pytest.mark.fast
def test_a_copy_only_looks(model, images):
    copy = model.for_inference()
    assert model.training
    assert not copy.training
    assert not any(x.requires_grad for x in copy(images).pair)
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


@pytest.mark.fast
def test_norms_are_folded_where_asked(model):
    counts = [sum(isinstance(part, WITH_FIXED_STATISTICS) for part in made.modules()) for made in (
        model, model.for_inference(), model.for_inference(fold=False)
    )]  # fmt: skip
    assert counts == [20, 0, 20]


@pytest.mark.fast
def test_bf16_takes_products_in_bfloat16_but_boxes_and_scores_in_float32(model, images):
    seen = {}

    def note(name):
        return lambda _, __, output: seen.update({name: output.dtype})

    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(note(name))
    exact, rounded = model.for_inference(), model.for_inference(amp="bf16")
    expected = exact(images)
    assert set(seen.values()) == {torch.float32}
    found = rounded(images)
    heads = {name for name in seen if "_embed" in name}
    assert heads
    assert {seen[name] for name in heads} == {torch.float32}
    assert {dtype for name, dtype in seen.items() if name not in heads} == {torch.bfloat16}
    assert all(x.dtype == torch.float32 for x in found.pair)
    assert 1e-6 < apart(found, expected) < 0.1


@pytest.mark.fast
def test_moved_boxes_are_in_float32_under_bf16(images):
    model = detrkit.build("deformable_detr_tiny_refine").for_inference(amp="bf16")
    boxes = model(images).boxes
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())


@pytest.mark.fast
@pytest.mark.skipif(not HAS_ONEDNN, reason="this PyTorch has no oneDNN")
def test_linear_layers_of_float32_go_through_onednn(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, w, b, *_: calls.append(x.dtype) or x @ w.T + b)
    layer, x = nn.Linear(5, 3).requires_grad_(False), torch.randn(2, 4, 5)
    with FastProducts():
        found = layer(x)
        layer.double()(x.double())
        F.linear(x, torch.randn(3, 5))
        with torch.autocast("cpu", torch.bfloat16):
            layer.float()(x)
    assert calls == [torch.float32]
    assert torch.allclose(found, x @ layer.weight.T + layer.bias, atol=1e-6)


@pytest.mark.fast
def test_a_copy_follows_no_later_change(model, images):
    copy = model.for_inference()
    before = copy(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert apart(copy(images), before) == 0
    with pytest.raises(ConfigError, match="no state dict"):
        copy.state_dict()


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_a_compiled_copy_says_the_same(model, images, amp):
    compiled = model.for_inference(amp=amp, compile=True)
    assert apart(compiled(images), answers(model, images)) < (1e-4 if amp == "none" else 0.1)
