"""The role `necks`: the laws for every registered component, and examples by hand."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.errors import ConfigError
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker

pytestmark = pytest.mark.fast

CASES = [
    *((name, {}) for name in REGISTRY.names("necks")),
    ("pyramid", {"levels": 4, "extra": 0}),
    ("pyramid", {"levels": 5, "extra": 2}),
    ("pyramid", {"levels": 1, "extra": 0}),
    ("pyramid", {"levels": 3, "extra": 1, "norm": "batch", "level_embed": False}),
    ("projector", {"scales": (1.0, 0.5), "depth": 1}),
    ("projector", {"norm": "layer", "eps": 1e-3}),
]


@pytest.mark.parametrize("law", laws_of("necks"))
@pytest.mark.parametrize(("name", "set_to"), CASES)
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("necks")[law](Maker(REGISTRY.get("necks", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


def test_extra_levels_are_made_from_the_last_map_of_the_backbone():
    """The first extra level reads the backbone's map, not the projected one (Deformable DETR, A.2)."""
    neck = detrkit.make("necks", "pyramid(levels=3, extra=2)", d_model=32, in_channels=(4, 6), strides=(8, 16))
    assert neck.strides == (16, 32, 64)
    assert [projection[0].in_channels for projection in neck.projections] == [6, 6, 32]


@pytest.mark.parametrize(
    ("spec", "width", "words"),
    [("pyramid", 48, "d_model=48.*32"), ("pyramid(extra=4)", 64, "extra.*4"), ("pyramid(levels=6)", 64, "levels=6")],
)
def test_what_does_not_fit_is_refused(spec, width, words):
    with pytest.raises(ConfigError, match=words):
        detrkit.make("necks", spec, d_model=width, in_channels=(4, 6, 8), strides=(8, 16, 32))


def test_single_takes_the_coarsest_map():
    neck = detrkit.make("necks", "single", d_model=8, in_channels=(4, 6), strides=(8, 16))
    maps = [torch.full((1, 4, 4, 4), torch.nan), torch.randn(1, 6, 2, 2)]
    assert neck(maps)[0].isfinite().all()


@pytest.mark.parametrize("channels", [6, 514])
def test_projector_joins_the_maps_of_the_coarsest_stride_at_every_scale(channels):
    neck = detrkit.make(
        "necks",
        "projector(scales=(2.0, 1.0, 0.5))",
        d_model=8,
        in_channels=(4, channels, channels),
        strides=(8, 16, 16),
    )
    maps = [torch.full((1, 4, 8, 12), torch.nan), *torch.randn(2, 1, channels, 4, 6)]
    assert neck.strides == (8, 16, 32)
    assert [tuple(level.shape) for level in neck(maps)] == [(1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3)]
    first, second = neck.eval()(maps), neck([*maps[:2], 2 * maps[2]])
    assert all((a - b).abs().max() > 0 for a, b in zip(first, second, strict=True))


def test_projector_refuses_other_scales():
    with pytest.raises(
        ConfigError, match=r"scales: got \(0.5, 1.0\); expected some of \(2.0, 1.0, 0.5\), in this order"
    ):
        detrkit.make("necks", "projector(scales=(0.5, 1.0))", d_model=8, in_channels=(4,), strides=(8,))
