"""Positional codes: the laws for every registered one, the formula of the sine, and the limits of the table."""

import math

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.errors import ConfigError, ShapeError
from detrkit.positional import Positional
from detrkit.positional.learned import LearnedPositional
from detrkit.positional.sine import SinePositional
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, check_component, laws_of
from detrkit.testing.law import Maker
from detrkit.testing.positional import draw_padding
from detrkit.testing.tensors import check_close

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("law", laws_of("positional"))
@pytest.mark.parametrize(
    ("name", "set_to"),
    [
        *((name, {}) for name in REGISTRY.names("positional")),
        ("sine", {"normalize": False}),
        ("sine", {"offset": -0.5}),
        ("sine", {"temperature": 20.0}),
        ("learned", {"size": 5}),
    ],
)
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, set_to, law, data):
    try:
        laws_of("positional")[law](Maker(REGISTRY.get("positional", name), set_to), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


# ---- sine


def written_out(mask, d_model, temperature, normalize, scale, offset):
    """DETR's code of every cell by the formula, one number at a time."""
    codes = torch.zeros(len(mask), d_model, *mask.shape[1:], dtype=torch.float64)
    for image, hidden in enumerate(mask.tolist()):
        for i, row in enumerate(hidden):
            for j in range(len(row)):
                above = [not hidden[r][j] for r in range(len(hidden))]
                before = [not row[c] for c in range(len(row))]
                for axis, (seen, at) in enumerate(((above, i), (before, j))):
                    place = sum(seen[: at + 1]) + offset
                    if normalize:
                        place = place / (sum(seen) + 1e-6) * scale
                    for channel in range(d_model // 2):
                        angle = place / temperature ** (2 * (channel // 2) / (d_model // 2))
                        value = math.cos(angle) if channel % 2 else math.sin(angle)
                        codes[image, axis * d_model // 2 + channel, i, j] = value
    return codes


@pytest.mark.parametrize(
    ("options"),
    [
        {},
        {"normalize": False},
        {"temperature": 20.0},
        {"scale": 1.0},
        {"offset": -0.5},
        {"normalize": False, "offset": 3.0, "temperature": 50.0},
    ],
)
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_sine_is_the_formula(options, data):
    positional = SinePositional(16, **options).double()
    mask = draw_padding(draws(data), positional)
    full = {"temperature": 10000.0, "normalize": True, "scale": 2 * math.pi, "offset": 0.0, **options}
    check_close(positional(mask), written_out(mask, 16, **full), "from the formula", rtol=1e-13)


def test_sine_of_a_first_cell():
    """The first of 4 columns and 2 rows stands at a quarter and half a turn."""
    code = SinePositional(8)(torch.zeros(1, 2, 4, dtype=torch.bool))[0, :, 0, 0]
    slow_row, slow_column = math.pi / 100, math.pi / 200
    expected = [0, -1, math.sin(slow_row), math.cos(slow_row), 1, 0, math.sin(slow_column), math.cos(slow_column)]
    assert code.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_sine_codes_have_one_length(normalize):
    codes = SinePositional(24, normalize=normalize).double()(blank(7, 9))
    assert torch.allclose(codes.square().sum(1), torch.tensor(12.0).double(), rtol=1e-12)


def test_sine_products_depend_on_the_shift_only():
    codes = SinePositional(24, normalize=False).double()(blank(9, 11))[0]
    for rows, columns in ((1, 0), (0, 2), (3, 4)):
        products = (codes[:, rows:, columns:] * codes[:, : 9 - rows, : 11 - columns]).sum(0)
        assert torch.allclose(products, products[0, 0], rtol=1e-12)


def test_sine_normalized_means_the_same_place_at_twice_the_size():
    positional = SinePositional(24).double()
    check_close(positional(blank(10, 14))[..., 1::2, 1::2], positional(blank(5, 7)), "at twice the size", rtol=1e-5)


def test_sine_of_the_transposed_map_swaps_the_halves():
    positional = SinePositional(24)
    rows, columns = positional(blank(4, 6)).chunk(2, dim=1)
    check_close(positional(blank(6, 4)), torch.cat([columns.mT, rows.mT], 1), "transposed", rtol=0)
    assert (rows == rows[..., :1]).all(), "the first half tells the row"
    assert (columns == columns[..., :1, :]).all(), "the second half tells the column"


def test_sine_has_nothing_to_train_or_to_save():
    positional = SinePositional(24)
    assert not list(positional.parameters())
    assert not positional.state_dict()


# ---- learned


def test_learned_halves_tell_column_and_row():
    positional = LearnedPositional(24)
    columns, rows = positional(blank(4, 6)).chunk(2, dim=1)
    assert torch.equal(columns[0, :, 2], positional.col_embed.weight[:6].T)
    assert torch.equal(rows[0, ..., 2], positional.row_embed.weight[:4].T)
    assert (rows == rows[..., :1]).all()
    assert (columns == columns[..., :1, :]).all()


def test_learned_trains_only_the_rows_it_uses():
    positional = LearnedPositional(24)
    positional(blank(4, 6)).square().sum().backward()
    for table, used in ((positional.row_embed, 4), (positional.col_embed, 6)):
        touched = table.weight.grad.abs().sum(1) > 0
        assert touched.tolist() == [row < used for row in range(50)]


@pytest.mark.parametrize(("height", "width", "side"), [(60, 50, "height"), (50, 60, "width"), (51, 1, "height")])
def test_learned_refuses_a_map_beyond_its_table(height, width, side):
    words = rf"positional=learned: .*along its {side}; got {max(height, width)}; .*at most 50"
    with pytest.raises(ShapeError, match=words):
        LearnedPositional(8)(blank(height, width))


def test_learned_stretches_its_table_where_asked():
    positional = LearnedPositional(8, size=5, interpolate=True)
    codes = positional(blank(9, 5))
    columns, rows = codes.chunk(2, dim=1)
    assert torch.allclose(rows[0, :, ::2, 0], positional.row_embed.weight.T)
    assert torch.allclose(rows[0, :, 1, 0], positional.row_embed.weight[:2].mean(0))
    assert torch.equal(columns[0, :, 0], positional.col_embed.weight.T)
    codes.sum().backward()
    assert (positional.row_embed.weight.grad != 0).all()


def test_widths_that_do_not_fit_are_refused_at_construction():
    for make in (lambda: SinePositional(6), lambda: REGISTRY.make("positional", "sine", d_model=6)):
        with pytest.raises(ConfigError, match="d_model=6 is not divisible by 4"):
            make()
    for make in (lambda: LearnedPositional(7), lambda: REGISTRY.make("positional", "learned", d_model=7)):
        with pytest.raises(ConfigError, match="d_model=7 is not divisible by 2"):
            make()


def test_a_table_too_small_for_the_images_is_refused_at_build():
    with pytest.raises(ConfigError, match=r"positional=learned\(size=3\) and backbone=tiny.* do not fit"):
        detrkit.build("detr_tiny", positional="learned(size=3)")


# ---- the laws catch what they are for


class CountsPadding(Positional):
    """Normalises by the padded size."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, mask):
        return SinePositional(self.d_model)(torch.zeros_like(mask))


class RowsOnly(CountsPadding):
    """Tells the row twice and the column never; takes any mask."""

    def forward(self, mask):
        rows = SinePositional(self.d_model)(mask.bool())[:, : self.d_model // 2]
        return torch.cat([rows, rows], 1)


@pytest.mark.parametrize(
    ("component", "broken"),
    [
        (CountsPadding, {"padding_changes_no_code", "codes_are_as_declared"}),
        (RowsOnly, {"cells_have_distinct_codes", "bad_masks_are_refused", "codes_are_as_declared"}),
    ],
)
def test_faults_are_caught(component, broken):
    assert broken <= {result.law for result in check_component(component) if result.outcome == "broken"}


def blank(height, width):
    return torch.zeros(1, height, width, dtype=torch.bool)
