"""Attention: the laws for every registered one, every pair of dense ones, values by hand, and planted faults."""

from itertools import combinations

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from detrkit.attention import Attention, AttentionOutput, DenseAttention, check_mask
from detrkit.errors import ConfigError
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, check_component, laws_of
from detrkit.testing.attention import Case, check_equal, gradients
from detrkit.testing.law import Maker
from detrkit.testing.tensors import check_close

ATTENTIONS = REGISTRY.names("attention")
DENSE = [name for name in ATTENTIONS if REGISTRY.get("attention", name).function == "dense"]


@pytest.mark.fast
@pytest.mark.parametrize("law", laws_of("attention"))
@pytest.mark.parametrize("name", ATTENTIONS)
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(name, law, data):
    try:
        laws_of("attention")[law](Maker(REGISTRY.get("attention", name)), draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


@pytest.mark.fast
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("first", "second"), list(combinations(DENSE, 2)))
def test_pair_is_one_function(first, second, dtype, masked):
    one, other = (REGISTRY.make("attention", f"{name}(heads=4)", d_model=32).to(dtype) for name in (first, second))
    randomize(one)
    other.load_state_dict(one.state_dict())
    check_equal(one, other, case_of(dtype, masked))
    randomize(other)
    one.load_state_dict(other.state_dict())
    check_equal(one, other, case_of(dtype, masked))


@pytest.mark.fast
@pytest.mark.parametrize("name", DENSE)
def test_one_seed_gives_one_initialization(name):
    torch.manual_seed(3)
    expected, after = REGISTRY.make("attention", "matrix", d_model=16).state_dict(), torch.rand(())
    torch.manual_seed(3)
    found = REGISTRY.make("attention", name, d_model=16).state_dict()
    assert torch.equal(after, torch.rand(())), "the generator is left elsewhere"
    check_close(found, expected, f"in {name}", rtol=0)
    assert not found["in_proj_bias"].any()


@pytest.mark.fast
@pytest.mark.parametrize("name", DENSE)
def test_values_worked_out_by_hand(name):
    """Scores ln 3 and 0 give weights 3/4 and 1/4; sqrt(2) undoes the scale of a head of width 2."""
    attention = identity(REGISTRY.make("attention", f"{name}(heads=1)", d_model=2))
    ln3 = torch.tensor(3.0).log()
    query = torch.stack([2**0.5 * ln3, torch.tensor(0.0)])[None, None]
    key = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    value = torch.tensor([[[4.0, 0.0], [0.0, 8.0], [100.0, 100.0]]])
    found = attention(query, key, value, mask=torch.tensor([[False, False, True]]), need_weights=True)
    assert found.output.flatten().tolist() == pytest.approx([3, 2], rel=1e-6)
    assert found.weights.flatten().tolist() == pytest.approx([0.75, 0.25, 0], rel=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("name", DENSE)
def test_heads_own_consecutive_channels(name):
    """Of two heads of width 1, the first weighs by the first channel, the second, with score 0, evenly."""
    attention = identity(REGISTRY.make("attention", f"{name}(heads=2)", d_model=2))
    query = torch.tensor([[[float(torch.tensor(3.0).log()), 0.0]]])
    tokens = torch.tensor([[[1.0, 4.0], [0.0, 8.0]]])
    found = attention(query, tokens, tokens, need_weights=True)
    assert found.output.flatten().tolist() == pytest.approx([0.75, 6], rel=1e-6)
    assert found.weights.flatten().tolist() == pytest.approx([0.75, 0.25, 0.5, 0.5], rel=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("name", DENSE)
def test_heads_that_do_not_divide_are_named_with_the_width(name):
    with pytest.raises(ConfigError, match=r"d_model=10 .*heads=4"):
        REGISTRY.make("attention", f"{name}(heads=4)", d_model=10)
    with pytest.raises(ConfigError, match=r"d_model=10 .*heads=4"):
        REGISTRY.get("attention", name)(10, heads=4)


@pytest.mark.fast
@pytest.mark.parametrize("name", DENSE)
def test_autocast_leaves_it_near_and_finite(name):
    attention, case = REGISTRY.make("attention", name, d_model=32), case_of(torch.float32, masked=True)
    case.mask[0] = True
    expected = case(attention).output
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(attention, case) | {"output": case(attention).output}
    assert all(part.isfinite().all() for part in found.values())
    check_close(found["output"], expected, "under autocast", rtol=0.03)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_compiles_without_a_graph_break(name):
    attention, case = REGISTRY.make("attention", name, d_model=32), case_of(torch.float32, masked=True)
    expected, output = gradients(attention, case), case(attention).output
    torch.compiler.reset()
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    found = {name.removeprefix("_orig_mod."): part for name, part in gradients(compiled, case).items()}
    check_close(found, expected, "when compiled")
    check_close(case(compiled).output, output, "when compiled")


def test_exports():
    attention, case = REGISTRY.make("attention", "sdpa", d_model=32).eval(), case_of(torch.float32, masked=True)
    exported = torch.export.export(attention, case[:3], {"mask": case.mask}).module()
    check_close(exported(*case[:3], mask=case.mask).output, case(attention).output, "when exported")


# ---- the laws catch what they are for


class Strange(Attention):
    """Base of attentions by strangers: one head, no softmax."""

    function = "linear"

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.key = torch.nn.Linear(d_model, d_model)

    def forward(self, query, key, value, *, mask=None, need_weights=False):
        if mask is not None:
            check_mask(mask, key)
            key, value = (x.masked_fill(mask[..., None], 0) for x in (key, value))
        weights = (query.sigmoid() @ self.key(key).sigmoid().mT) / query.shape[-1]
        if mask is not None:
            weights = weights.masked_fill(mask[:, None], 0)
        return AttentionOutput(weights @ value, weights[:, None] if need_weights else None)


class Unmasked(Strange):
    """Ignores its mask."""

    def forward(self, query, key, value, *, mask=None, need_weights=False):
        return super().forward(query, key, value, need_weights=need_weights)


class Fault(DenseAttention):
    """Base of dense attentions with one planted fault each."""

    hidden, scaled, axis = True, True, -1

    def attend(self, query, key, value, mask, need_weights):
        q, k, v = self.project(query, key, value)
        scores = q @ k.mT * (self.head_dim**-0.5 if self.scaled else 1)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None] == self.hidden, float("-inf"))
        weights = scores.softmax(self.axis)
        dropped = F.dropout(weights, self.dropout, self.training)
        return AttentionOutput(self.merge(dropped @ v), weights if need_weights else None)


class Inverted(Fault):
    hidden = False


class Unscaled(Fault):
    scaled = False


class OverQueries(Fault):
    axis = -2


class AlwaysDropping(Fault):
    def attend(self, query, key, value, mask, need_weights):
        q, k, v = self.project(query, key, value)
        visible = None if mask is None else ~mask[:, None, None]
        read = F.scaled_dot_product_attention(q, k, v, visible, self.dropout)
        return AttentionOutput(self.merge(read), super().attend(query, key, value, mask, need_weights).weights)


def outcomes(component, outcome="broken"):
    return {result.law for result in check_component(component, examples=8) if result.outcome == outcome}


@pytest.mark.fast
def test_sound_components_of_strangers_pass():
    assert outcomes(Fault) == set()
    assert outcomes(Strange) == set()
    assert {
        "equals_the_reference",
        "weights_are_a_distribution",
        "equal_values_are_read_as_they_are",
        "single_visible_key_is_read",
        "heads_must_divide_the_width",
    } <= outcomes(Strange, "not concerned")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("component", "laws"),
    [
        (
            Unmasked,
            {
                "masked_keys_have_no_influence",
                "masked_keys_have_no_influence_on_gradients",
                "bad_masks_are_refused",
                "blind_image_gives_zeros",
                "appended_padding_changes_nothing",
            },
        ),
        (Inverted, {"masked_keys_have_no_influence", "single_visible_key_is_read", "equals_the_reference"}),
        (Unscaled, {"equals_the_reference"}),
        (
            OverQueries,
            {
                "weights_are_a_distribution",
                "queries_do_not_influence_each_other",
                "equals_the_reference",
                "equal_values_are_read_as_they_are",
            },
        ),
        (AlwaysDropping, {"dropout_acts_in_training_only"}),
    ],
)
def test_faults_are_caught(component, laws):
    assert laws <= outcomes(component)


def randomize(attention):
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(std=0.3)


def identity(attention):
    eye = torch.eye(attention.d_model)
    attention.load_state_dict(
        {
            "in_proj_weight": eye.repeat(3, 1),
            "in_proj_bias": torch.zeros(3 * len(eye)),
            "out_proj.weight": eye,
            "out_proj.bias": torch.zeros(len(eye)),
        }
    )
    return attention


def case_of(dtype, masked):
    """Three images of 5 queries and 7 keys; the last is blind where masks are wanted."""
    query, key, value = (torch.randn(3, length, 32, dtype=dtype) for length in (5, 7, 7))
    mask = torch.zeros(3, 7, dtype=torch.bool)
    if masked:
        mask[0, 5:] = mask[1, :2] = mask[2] = True
    return Case(query, key, value, mask)
