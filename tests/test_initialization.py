"""A new model has the official statistics: each entry of the state dict falls under exactly one rule, and keeps it."""

import math
import re

import pytest
import torch

import detrkit

SIGMAS = 6.0
NEVER = 1e-9  # how improbable it may be that a right sample fails a check of its range


def constant(value):
    def check(entry, _):
        assert (entry.float() == torch.tensor(float(value))).all(), f"not {value:g} everywhere"

    return check


def spread(std, kurtosis, bound=math.inf):
    """A distribution around zero by its deviation, fourth standardised moment, and range; ``std`` of the shape."""

    def check(entry, shape):
        assert entry.any(), "zero everywhere"
        deviation, count = std(shape), entry.numel()
        error = abs(float(entry.mean())) / (deviation / count**0.5)
        assert error <= SIGMAS, f"the mean is {error:.1f} standard errors from 0"
        variance = float(entry.square().mean()) / deviation**2
        error = abs(variance - 1) / ((kurtosis - 1) / count) ** 0.5
        assert error <= SIGMAS, f"the mean square is {variance:.4f} of the expected, {error:.1f} standard errors off"
        if bound < math.inf:
            reached, least = float(entry.abs().max()) / (bound * deviation), 1 + math.log(NEVER) / count
            assert least <= reached <= 1 + 1e-6, f"the largest value is {reached:.4f} of the bound"

    return check


def normal(std):
    return spread(std, kurtosis=3.0)


def uniform(bound):
    return spread(lambda shape: bound(shape) / 3**0.5, kurtosis=1.8, bound=3**0.5)


def unit(entry, shape):
    """Uniform in [0, 1]."""
    uniform(lambda _: 1.0)(2 * entry - 1, shape)


def fan_in(shape):
    return math.prod(shape[1:])


def fan_out(shape):
    return shape[0] * math.prod(shape[2:])


# A matrix of the transformer; the packed projection of an attention counts as one matrix, as in nn.MultiheadAttention.
XAVIER = uniform(lambda shape: (6 / (fan_in(shape) + fan_out(shape))) ** 0.5)
# What nn.Linear and nn.Conv2d do by themselves: one bound for weight and bias.
DEFAULT = uniform(lambda shape: fan_in(shape) ** -0.5)
# Residual networks start by He et al. 2015; DETR's trunk is then replaced by a pretrained one.
HE = normal(lambda shape: (2 / fan_out(shape)) ** 0.5)


def looking(heads, points):
    """Offsets of so many heads and points: the farther the point, in directions all around, alike on every level."""

    def check(entry, _):
        for number, head in enumerate(entry.view(heads, -1, points, 2)):
            x, y = (wave(2 * math.pi * number / heads) for wave in (math.cos, math.sin))
            expected = torch.tensor([(x, y)], dtype=entry.dtype) / max(abs(x), abs(y))
            away = expected * torch.arange(1, points + 1)[:, None]
            assert torch.allclose(head, away, atol=1e-5), "not the official offsets"

    return check


def first_sizes(entry, _):
    """The last bias of the box head where boxes are told from points alone: width and height start small."""
    assert entry.tolist() == [0, 0, -2, -2], f"{entry.tolist()}"


STACK = r"(encoder|decoder)\.layers\.\d+\."
ATTENTION = STACK + r"(self|cross)_attn\."
NORM = r"((encoder|decoder)\.norm|" + STACK + r"\w+_residual\.norm|queries\.\w+_norm|neck\.projections\.\d\.1)\."
# What stands in the official transformers beside the attentions: drawn with them.
INSIDE = r"(encoder\.position_scale|decoder\.placement\.\w+)\.layers\.\d\."
SEPARATE = r"(query_content|query_position|query_sine|key_content|key_position|value)\."
VD = r"backbone\.body\.(stem\.\d|stages\.\d\.\d+\.(branch\.\d|shortcut\.1))\."
FUSING = r"(neck\.projections|encoder\.(lateral|downsample|output|top_down|bottom_up))\.\d\.(\w+\.)*"

RULES = (
    (VD + r"conv\.weight", HE),
    (FUSING + r"conv\.weight", DEFAULT),
    (f"({VD}|{FUSING})" + r"norm\.(weight|running_var)", constant(1)),
    (f"({VD}|{FUSING})" + r"norm\.(bias|running_mean|num_batches_tracked)", constant(0)),
    (r"backbone\.body\.(layer\d\.\d+\.)?(conv\d|downsample\.0)\.weight", HE),
    (r"backbone\.body\.(layer\d\.\d+\.)?(bn\d|downsample\.1)\.(weight|running_var)", constant(1)),
    (r"backbone\.body\.(layer\d\.\d+\.)?(bn\d|downsample\.1)\.(bias|running_mean|num_batches_tracked)", constant(0)),
    (r"neck\.projection\.(weight|bias)", DEFAULT),
    (r"neck\.projections\.\d\.0\.weight", XAVIER),
    (r"neck\.projections\.\d\.0\.bias", constant(0)),
    (r"neck\.level_embed", normal(lambda _: 1.0)),
    (ATTENTION + r"(in_proj_weight|(out|value|output)_proj\.weight)", XAVIER),
    (ATTENTION + r"(in_proj_bias|(out|value|output)_proj\.bias)", constant(0)),
    (ATTENTION + SEPARATE + "weight", XAVIER),
    (ATTENTION + SEPARATE + "bias", DEFAULT),
    (ATTENTION + r"(sampling_offsets\.weight|attention_weights\.(weight|bias))", constant(0)),
    (INSIDE + "weight", XAVIER),
    (INSIDE + "bias", DEFAULT),
    (STACK + r"ffn\.activation\.weight", constant(0.25)),
    (STACK + r"ffn\.linear\d\.weight", XAVIER),
    (STACK + r"ffn\.linear\d\.bias", DEFAULT),
    (NORM + "weight", constant(1)),
    (NORM + "bias", constant(0)),
    (r"queries\.(positions|anchors|labels|both)\.weight", normal(lambda _: 1.0)),
    (r"queries\.(output|position|reference_points)\.weight", XAVIER),
    (r"queries\.(output|position)\.bias", DEFAULT),
    (r"queries\.reference_points\.bias", constant(0)),
    (r"positional\.(row|col)_embed\.weight", unit),
    (r"(queries\.)?(class_embed(\.\d)?|bbox_embed(\.\d)?\.layers\.[01])\.weight", DEFAULT),
    (r"(queries\.)?bbox_embed(\.\d)?\.layers\.[01]\.bias", DEFAULT),
)
LAST = r"(queries\.)?bbox_embed(\.\d)?\.layers\.2\."
# How boxes and classes start differs: by whether boxes are told from references, and by the loss of the classes.
PLAIN = (
    (r"class_embed\.bias", DEFAULT),
    (LAST + "(weight|bias)", DEFAULT),
    (r"queries\.content\.weight", unit),
)
REFERRED = (
    (r"(queries\.)?class_embed(\.\d)?\.bias", constant(-math.log(99))),
    (LAST + "weight", constant(0)),
    (r"queries\.content\.weight", XAVIER),
)
OFFSETS = ATTENTION + r"sampling_offsets\.bias"
FROM_BOXES = (*REFERRED, (LAST + "bias", constant(0)), (OFFSETS, looking(8, 4)))
BLOCK = r"backbone\.blocks\.\d\."
LIGHT = (
    *REFERRED[:2],
    (LAST + "bias", constant(0)),
    (OFFSETS, looking(16, 2)),
    (r"queries\.content\.weight", normal(lambda _: 1.0)),
    (r"queries\.offset", constant(0)),
    (r"backbone\.(pos_embed|patch_embed\.weight)|" + BLOCK + r"(attn|mlp)\.\w+\.weight", normal(lambda _: 0.02)),
    (r"backbone\.patch_embed\.bias|" + BLOCK + r"(attn\.([qv]_|proj\.)|mlp\.linear\d\.)bias", constant(0)),
    (BLOCK + r"norm\d\.bias", constant(0)),
    (BLOCK + r"norm\d\.weight", constant(1)),
    (BLOCK + r"ls\d\.gamma", constant(0.1)),
    (r"neck\.levels\.0\.block\.(\w+\.)+conv\.weight", DEFAULT),
    (r"neck\.levels\.0\.(.*\.)?norm\.(weight|running_var)", constant(1)),
    (r"neck\.levels\.0\.(.*\.)?norm\.(bias|running_mean|num_batches_tracked)", constant(0)),
)
FROM_POINTS = (
    *REFERRED,
    (OFFSETS, looking(8, 4)),
    (r"bbox_embed(\.0)?\.layers\.2\.bias", first_sizes),
    (r"bbox_embed\.[1-9]\.layers\.2\.bias", constant(0)),
)
STARTS = (
    {"deformable_detr_r50": FROM_POINTS, "deformable_detr_r50_refine": FROM_POINTS}
    | dict.fromkeys(
        (
            *(
                "conditional_detr_r50",
                "dab_detr_r50",
                "dn_detr_r50",
                "deformable_detr_r50_two_stage",
                "dino_4scale_r50",
            ),
            *("rt_detr_r18", "rt_detr_r50"),
        ),
        FROM_BOXES,
    )
    | {"lw_detr_tiny": LIGHT}
)


def rule_of(name, start=PLAIN):
    name = re.sub(r"queries\.groups\.\d+\.", "queries.", name)
    found = [rule for pattern, rule in (*RULES, *start) if re.fullmatch(pattern, name)]
    assert len(found) == 1, f"{len(found)} rules for {name}"
    return found[0]


def check_initialization(state, start=PLAIN):
    """Every entry by its rule; a bias by the shape of its weight."""
    for name, entry in state.items():
        weight = state.get(name.removesuffix("bias") + "weight", entry)
        try:
            rule_of(name, start)(entry.double(), weight.shape)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize(
    "name", ["detr_r50", "detr_demo", *STARTS, pytest.param("detr_r101_dc5", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_the_published_model_starts_as_the_official_one(name, seed):
    torch.manual_seed(seed)
    check_initialization(detrkit.build(name).state_dict(), STARTS.get(name, PLAIN))


def test_no_two_entries_start_alike():
    """Layers are drawn, not copied."""
    seen = {}
    for name, entry in detrkit.build("detr_r50").state_dict().items():
        if entry.std() == 0:
            continue
        start = tuple(entry.flatten()[:4].tolist())
        assert start not in seen, f"{name} is {seen[start]}"
        seen[start] = name


@pytest.mark.fast
@pytest.mark.parametrize(
    ("rule", "shape", "spoil"),
    [
        (XAVIER, (768, 256), lambda entry: 1.03 * entry),
        (XAVIER, (768, 256), lambda entry: entry + 0.005),
        (XAVIER, (768, 256), lambda entry: entry.std() * torch.randn(768, 256)),
        (XAVIER, (768, 256), lambda entry: torch.cat([2**0.5 * entry[:256], entry[256:]])),
        (XAVIER, (768, 256), lambda entry: torch.full_like(entry, float(entry.std()))),
        (DEFAULT, (256, 2048, 1, 1), lambda entry: 1.03 * entry),
        (HE, (64, 64, 3, 3), lambda entry: 1.1 * entry),
        (unit, (100, 256), lambda entry: entry.clamp(0.2)),
        (unit, (100, 256), lambda entry: entry - 0.5),
        (constant(0), (256,), lambda entry: entry + 1e-3),
    ],
)
def test_rules_are_kept_and_broken(rule, shape, spoil):
    torch.manual_seed(0)
    right = {
        XAVIER: lambda entry: torch.nn.init.xavier_uniform_(entry),
        DEFAULT: lambda entry: torch.nn.init.kaiming_uniform_(entry, a=5**0.5),
        HE: lambda entry: torch.nn.init.kaiming_normal_(entry, mode="fan_out"),
        unit: lambda entry: torch.nn.init.uniform_(entry),
    }.get(rule, lambda entry: entry)(torch.zeros(shape))
    rule(right, shape)
    with pytest.raises(AssertionError):
        rule(spoil(right), shape)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["decoder.layers.0.gate.weight", "queries.width.weight", "backbone.body.fc.weight"])
def test_an_unknown_entry_has_no_rule(name):
    with pytest.raises(AssertionError, match="0 rules"):
        rule_of(name)
