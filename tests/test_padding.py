"""Padding-exact mode: an image alone is what it is in any batch; the published mode is known to differ."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from twins import TWINS

import detrkit
from detrkit.errors import ConfigError
from detrkit.padding import ExactPadding, every_nth, group_norm

# an image's own size, and that of the batch in which it is padded
SIZES = [
    ((33, 65), (64, 96)), ((33, 65), (33, 66)), ((33, 65), (34, 65)), ((33, 65), (160, 65)), ((33, 65), (33, 200)),
    ((32, 64), (33, 65)), ((32, 64), (96, 64)), ((64, 64), (65, 65)), ((31, 97), (224, 100)), ((1, 1), (64, 64)),
    ((1, 100), (50, 101)), ((100, 1), (128, 2)), ((63, 63), (64, 64)), ((95, 129), (97, 130)), ((96, 128), (160, 129)),
    ((47, 51), (150, 53)), ((127, 33), (128, 160)), ((65, 33), (96, 64)), ((17, 90), (40, 99)), ((99, 99), (193, 161)),
]  # fmt: skip
BACKBONES = [
    "tiny(width=8)",
    "tiny(width=8, depth=2, stride=32)",
    "torchvision(model='resnet18')",
    "torchvision(model='resnet50', dilation=True)",
    "torchvision(model='mobilenet_v3_small')",
    "torchvision(model='convnext_tiny')",
    "torchvision(model='shufflenet_v2_x0_5')",
    "timm(model='resnet26d')",
]


def smooth(generator, height, width):
    """A picture whose features differ from place to place."""
    cells = (height // 8 + 2, width // 8 + 2)
    coarse = torch.randn(1, 3, *cells, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bilinear")


def pad_into(image, size):
    """A batch of the image and a larger one, with its mask."""
    (height, width), generator = image.shape[-2:], torch.Generator().manual_seed(5)
    batch = torch.cat([torch.zeros(1, 3, *size), smooth(generator, *size)]).to(image)
    batch[0, :, :height, :width] = image[0]
    mask = torch.zeros(2, *size, dtype=torch.bool)
    mask[0] = True
    mask[0, :height, :width] = False
    return batch, mask


def apart(model, image, size):
    """Largest difference of logits and of boxes between the image alone and in the batch, all decoder layers."""
    alone, together = model(image), model(*pad_into(image, size))
    return tuple(float((a[:, 0] - b[:, 0]).abs().max()) for a, b in zip(alone.pair, together.pair, strict=True))


def detector(backbone, preset="detr_tiny", **changes):
    torch.manual_seed(0)
    long_side = 200 if detrkit.config(preset).square else 400
    options = {"short_side": 200, "long_side": long_side, "padding_exact": True, **changes}
    model = detrkit.build(preset, backbone=backbone, **options).eval()
    for module in model.modules():  # a norm that does nothing would hide what it does in the padding
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d) or "FrozenNorm" in type(module).__name__:
            nn.init.normal_(module.bias, 0.0, 0.3)
    return model


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_an_image_alone_is_what_it_is_in_a_batch(backbone):
    model, generator = detector(backbone).double(), torch.Generator().manual_seed(1)
    for own, size in SIZES if "tiny(" in backbone or "18" in backbone else SIZES[::4]:
        logits, boxes = apart(model, smooth(generator, *own).double(), size)
        assert logits < 1e-12, (own, size)
        assert boxes < 1e-13, (own, size)


@pytest.mark.parametrize("name", [name for name in TWINS if detrkit.config(name).placement != "sine"])
@torch.no_grad()
def test_every_member_finds_in_a_batch_what_it_finds_alone(name):
    model, generator = detector("tiny(width=8)", name).double(), torch.Generator().manual_seed(1)
    for own, size in (((63, 63), (64, 160)), ((95, 129), (97, 130)), ((127, 65), (160, 160))):
        logits, boxes = apart(model, smooth(generator, *own).double(), size)
        assert logits < 1e-11, (own, size)
        assert boxes < 1e-12, (own, size)


def test_positions_that_depend_on_the_padding_are_refused():
    with pytest.raises(ConfigError, match="padding_exact=True and placement=sine"):
        detrkit.build("dino_tiny", padding_exact=True)


@torch.no_grad()
def test_published_network_in_float32():
    """ResNet-50 DETR, 20 pairs of sizes: within 1e-5 (logits) and 1e-6 (boxes)."""
    torch.manual_seed(0)
    model, generator = detrkit.build("detr_r50", padding_exact=True).eval(), torch.Generator().manual_seed(1)
    found = [apart(model, smooth(generator, *own), size) for own, size in SIZES]
    assert len(found) == 20
    assert max(logits for logits, _ in found) < 1e-5, found
    assert max(boxes for _, boxes in found) < 1e-6, found


@torch.no_grad()
def test_published_mode_depends_on_the_batch():
    """What the mode is for; were this to fail, the test above would show nothing."""
    model = detector("torchvision(model='resnet18')", padding_exact=False).double()
    image = smooth(torch.Generator().manual_seed(1), 33, 65).double()
    assert apart(model, image, (64, 96))[0] > 1e-3


@torch.no_grad()
def test_without_padding_nothing_changes():
    model = detector("torchvision(model='resnet18')")
    plain = detector("torchvision(model='resnet18')", padding_exact=False)
    plain.load_state_dict(model.state_dict())
    images = smooth(torch.Generator().manual_seed(1), 64, 96)
    unpadded = torch.zeros(1, 64, 96, dtype=torch.bool)
    for inputs in ((images,), (images, unpadded)):
        assert torch.equal(model(*inputs).logits, plain(*inputs).logits)


def test_gradients_of_padded_batches_are_those_of_single_images():
    model = detector("torchvision(model='resnet18', norm='batch')").double()
    image = smooth(torch.Generator().manual_seed(1), 33, 65).double()
    gradients = []
    for inputs in ((image,), pad_into(image, (70, 97))):
        model.zero_grad()
        output = model(*inputs)
        (output.logits[:, 0].square().sum() + output.boxes[:, 0].sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, alone in gradients[0].items():
        assert torch.allclose(alone, gradients[1][name], rtol=1e-9, atol=1e-12), name


@torch.no_grad()
def test_a_copy_of_the_model_hides_its_own_padding():
    model = detector("tiny(width=8)").double()
    twin = copy.deepcopy(model)
    image = smooth(torch.Generator().manual_seed(1), 33, 65).double()
    assert apart(twin, image, (64, 96))[0] < 1e-12
    assert twin.exact_padding is not model.exact_padding


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "timm(model='vit_tiny_patch16_224')"}, "backbone=timm"),
        ({"backbone": "tiny", "positional": "learned(size=5, interpolate=True)"}, "positional=learned"),
    ],
)
def test_parts_that_cannot_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=f"padding_exact=True and {words}.* do not fit") as caught:
        detrkit.build("detr_tiny", padding_exact=True, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), stride=st.sampled_from([1, 2, 4, 14, 32]))
def test_a_cell_is_padding_where_its_first_pixel_is(height, width, stride):
    mask = torch.ones(1, 70, 70, dtype=torch.bool)
    mask[:, :height, :width] = False
    cells = -(-70 // stride)
    found = every_nth(mask, stride, cells, cells)[0]
    assert int((~found).any(1).sum()) == -(-height // stride)
    assert int((~found).any(0).sum()) == -(-width // stride)


@pytest.mark.fast
def test_group_norm_of_the_cells_that_are_seen():
    x, seen = torch.randn(2, 8, 5, 6).double(), torch.zeros(2, 1, 5, 6).double()
    seen[0, :, :3, :4], seen[1] = 1, 1
    norm = nn.GroupNorm(2, 8).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    found = group_norm(norm, x, seen)
    assert torch.allclose(found[:1, :, :3, :4], norm(x[:1, :, :3, :4]))
    assert torch.allclose(found[1:], norm(x[1:]))
    blind = group_norm(norm, x, torch.zeros_like(seen))
    assert blind.isfinite().all()


@pytest.mark.fast
@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, padding=1),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.MaxPool2d(3, 2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(2, 3, 3, 2, padding=1),
    ],
)
def test_every_kind_of_module_sees_the_image_alone(pool):
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.pool = nn.Conv2d(3, 2, 1), pool

        def forward(self, images):
            return self.pool(self.lift(images) - 5)

    backbone = Pooling().double()
    padding, image = ExactPadding(backbone, nn.Identity()), torch.randn(1, 3, 7, 9).double()
    alone = backbone(image)
    batch, mask = pad_into(image, (16, 13))
    with padding.hiding(mask):
        together = backbone(batch)
    rows, columns = alone.shape[-2:]
    assert torch.allclose(together[:1, :, :rows, :columns], alone)
    assert together.isfinite().all()
