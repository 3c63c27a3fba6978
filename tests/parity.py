"""What comparisons with other implementations share: weights and images in which no mistake hides, and bounds."""

import re
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from detrkit.model import DetectorOutput

FLOAT64 = DetectorOutput(logits=1e-9, boxes=1e-9)
RELATIVE = 1e-6
FLOAT32 = DetectorOutput(logits=2e-4, boxes=2e-5)

# Scales of weights: a matrix is noise of this scale over the root of its fan-in (queries and keys first, then values),
# a norm's scale is near it. Attention is sharp enough for queries to differ, residual branches are quiet enough for
# tokens to differ from place to place, and nothing is so sharp that float32 rounding grows.
SCALES = (
    (r"layer3\.([6-9]|\d\d)\.bn3\.weight$", 0.2),
    (r"bn3\.weight$", 0.5),
    (r"(conv\d|downsample\.0)\.weight$", 2.0),
    (r"^encoder.*self_attn\.in_proj_weight$", (1.0, 0.5)),
    (r"^encoder.*out_proj\.weight$", 0.4),
    (r"^decoder.*self_attn\.in_proj_weight$", (1.5, 1.0)),
    (r"^decoder.*cross_attn\.in_proj_weight$", (2.0, 1.5)),
    (r"linear2\.weight$", 0.5),
    (r"activation\.weight$", 0.25),
    (r"", 1.0),
)

TABLE = re.compile(
    r"queries\.(groups\.\d+\.)?(positions|content|anchors|both|labels)\.|positional\.|neck\.level_embed|backbone\.(pos|cls)_"
)  # learned, not a linear layer


def scale_of(name, entry):
    scale = next(scale for pattern, scale in SCALES if re.search(pattern, name))
    if not isinstance(scale, tuple):
        return scale
    return torch.tensor([scale[0], scale[0], scale[1]]).repeat_interleave(len(entry) // 3)[:, None]


@torch.no_grad()
def randomize_(model, generator):
    """Every entry random, biases, norms and frozen statistics too.

    Convolutions lean to the negative, so that their maps are sparse and differ from place to place at any depth.
    """
    for name, entry in model.state_dict().items():
        noise = torch.randn(entry.shape, generator=generator, dtype=torch.float64)
        if TABLE.match(name):
            entry.copy_(noise)
        elif entry.dim() > 1:
            fan_in, lean = entry[0].numel(), float(name.startswith("backbone"))
            entry.copy_(scale_of(name, entry) * (noise / fan_in**0.5 - lean / fan_in))
        elif name.endswith("weight"):
            entry.copy_(scale_of(name, entry) * (1 + 0.1 * noise))
        elif name.endswith("running_var"):
            entry.copy_(1 + 0.1 * noise.abs())
        else:
            entry.copy_(0.1 * noise)
    return model


def draw_scene(generator, *sizes):
    """Smooth images of these sizes, padded to the largest, and the mask."""
    height, width = (max(side) for side in zip(*sizes, strict=True))
    images, mask = torch.zeros(len(sizes), 3, height, width, dtype=torch.float64), torch.ones(len(sizes), height, width)
    for image, padding, size in zip(images, mask, sizes, strict=True):
        blobs = torch.randn(1, 3, 7, 7, generator=generator, dtype=torch.float64)
        image[:, : size[0], : size[1]] = F.interpolate(blobs, size=size, mode="bicubic")[0]
        padding[: size[0], : size[1]] = 0
    return images, mask.bool()


def draw_truth(generator, counts, classes):
    """Targets with so many objects an image."""
    return [
        {
            "boxes": 0.05 + 0.45 * torch.rand(count, 4, generator=generator, dtype=torch.float64),
            "labels": torch.randint(classes, (count,), generator=generator),
        }
        for count in counts
    ]


def check_apart(found, expected, bound, when):
    """Logits and boxes of every layer differ by no more than the bound, an absolute one."""
    for name, one, other, limit in zip(("logits", "boxes"), found[:2], expected[:2], bound[:2], strict=True):
        assert one.shape == other.shape, f"{name} of {tuple(one.shape)} and {tuple(other.shape)} {when}"
        apart = float((one - other).abs().max())
        assert apart <= limit, f"{name} differ by {apart:.3g} {when}; {limit:.3g} is allowed"


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
