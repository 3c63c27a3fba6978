"""The detector: its laws, the published DETR-R50 by its golden outputs, images that are refused."""

import pytest
import torch
from conftest import draws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import detrkit
from detrkit.attention import Attention, AttentionOutput
from detrkit.checkpoints.layouts.official import LAYOUT
from detrkit.errors import ConfigError, DetrkitError, ShapeError
from detrkit.labels import LabelSpace
from detrkit.registry import REGISTRY
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.criterion import draw_target
from detrkit.testing.law import seeded_draw
from detrkit.testing.model import ATTENTIONS, charge, draw_images, draw_model, make_model, same_function
from detrkit.testing.tensors import check_close
from detrkit.transformer import Memory, Queries


@pytest.mark.fast
@pytest.mark.parametrize("law", laws_of("model"))
@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(law, data):
    try:
        laws_of("model")[law](make_model, draws(data))
    except NotConcerned as reason:
        pytest.skip(str(reason))


# ---- the published model


@pytest.fixture
def published(golden):
    """Makes a published model with its formula-made weights; gives it with its golden file, checker and inputs."""

    def make(name):
        content, fill, state, inputs = golden(name)
        model = detrkit.build(name).double().eval()
        assert sum(p.numel() for p in model.parameters()) == content["n_parameters"]
        model.load_state_dict({LAYOUT.spellings[""].ours(name): entry for name, entry in state.items()})
        return model, content, fill, inputs

    return make


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_dc5", "detr_r101"])
@torch.no_grad()
def test_equals_the_golden_outputs(published, name):
    model, content, fill, inputs = published(name)
    outputs = model(*inputs)
    found = fill.compare(content, {"pred_logits": outputs.logits, "pred_boxes": outputs.boxes}, verbose=False)
    assert found["ok"], found
    assert found["worst"] < 1e-10


@torch.no_grad()
def test_published_states_are_the_same_under_every_dense_attention(published):
    model, _, _, inputs = published("detr_r50")
    memory = model.tokenize(*inputs)
    expected = model.decoder(model.queries(memory), model.encoder(memory)).states
    for name in same_function():
        other = detrkit.build("detr_r50", backbone="tiny", **dict.fromkeys(ATTENTIONS, name)).double().eval()
        for stack in ("encoder", "decoder", "queries"):
            getattr(other, stack).load_state_dict(getattr(model, stack).state_dict())
        states = other.decoder(other.queries(memory), other.encoder(memory)).states
        check_close(states, expected, f"with {name}", rtol=1e-11)


def tokens(*shape):
    return torch.randn(*shape, 32, dtype=torch.float64)


@pytest.mark.fast
@pytest.mark.parametrize("pre_norm", [False, True])
def test_layers_written_out(pre_norm):
    """Positions are added to queries and keys, never to values; norms stand after the sum or before the sublayer."""
    model, padding = draw_model(make_model, seeded_draw(0), pre_norm=pre_norm), torch.tensor([[False] * 6 + [True]])
    memory, (content, place) = Memory(tokens(1, 7), tokens(1, 7), padding, ((1, 7),)), (tokens(1, 5), tokens(1, 5))

    def add(residual, x, sublayer):
        return x + sublayer(residual.norm(x)) if pre_norm else residual.norm(x + sublayer(x))

    def think(layer, x):
        return add(layer.ffn_residual, x, lambda x: layer.ffn.linear2(layer.ffn.linear1(x).relu()))

    layer, positions = model.encoder.layers[0], memory.positions
    expected = add(
        layer.self_attn_residual,
        memory.tokens,
        lambda x: layer.self_attn(x + positions, x + positions, x, mask=padding).output,
    )
    check_close(layer(memory, None), think(layer, expected), "from the formula")

    layer, keys = model.decoder.layers[0], memory.tokens + positions
    expected = add(layer.self_attn_residual, content, lambda x: layer.self_attn(x + place, x + place, x).output)
    expected = add(
        layer.cross_attn_residual,
        expected,
        lambda x: layer.cross_attn(x + place, keys, memory.tokens, mask=padding).output,
    )
    check_close(layer(Queries(content, place), memory), think(layer, expected), "from the formula")


@pytest.mark.fast
def test_heads_written_out():
    """Logits are linear in the last state; a box is the sigmoid, once, of three layers with ReLU between."""
    model, (images, mask) = draw_model(make_model, seeded_draw(0)).eval(), draw_images(seeded_draw(1))
    memory = model.encoder(model.tokenize(images, mask))
    states = model.decoder(model.queries(memory), memory).states
    outputs, (first, second, third) = model(images, mask), model.bbox_embed.layers
    check_close(outputs.logits, states @ model.class_embed.weight.T + model.class_embed.bias, "from the formula")
    check_close(outputs.boxes, third(second(first(states).relu()).relu()).sigmoid(), "from the formula")
    assert torch.equal(model.queries(memory).positions[0], model.queries.positions.weight)
    assert not model.queries(memory).content.any()


# ---- every part has an effect


@pytest.mark.fast
@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_parameter_matters(pre_norm):
    """Every gradient is somewhere not zero, but for weights that multiply the empty content of the first layer."""
    draw = seeded_draw(1)
    model, (images, mask) = draw_model(make_model, draw, pre_norm=pre_norm), draw_images(draw, batch=2)
    charge(model, images, mask, [draw_target(draw, 3) for _ in images]).total.backward()
    idle = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert idle <= {"decoder.layers.0.self_attn.in_proj_weight", "decoder.layers.0.self_attn_residual.norm.weight"}


@pytest.mark.fast
@pytest.mark.parametrize(
    "change",
    [
        {"positional": None},
        {"positional": "learned"},
        {"decoder_self_attention": None},
        {"pre_norm": False},
        {"activation": "gelu"},
        {"enc_layers": 2},
        {"dec_layers": 3},
        {"encoder_attention": "sdpa(heads=2)"},
        {"queries": "content"},
        {"position_at": "input"},
        {"pre_norm": False, "encoder_norm": True},
        {"feature_scale": 0.1},
    ],
)
def test_every_choice_of_parts_changes_the_model(change):
    torch.manual_seed(0)
    plain = make_model().eval()
    torch.manual_seed(0)
    changed = make_model(**change).eval()
    changed.load_state_dict({**changed.state_dict(), **plain.state_dict()}, strict=False)
    images, mask = draw_images(seeded_draw(0))
    assert not torch.allclose(plain(images, mask).pred_logits, changed(images, mask).pred_logits)


@pytest.mark.fast
def test_aux_loss_tells_every_layer():
    images, mask = draw_images(seeded_draw(0), batch=2)
    torch.manual_seed(0)
    every = make_model(dec_layers=3).eval()
    last = make_model(dec_layers=3, aux_loss=False).eval()
    last.load_state_dict(every.state_dict())
    outputs, answer = every(images, mask), last(images, mask)
    assert outputs.logits.shape == (3, 2, 6, 5)
    assert outputs.boxes.shape == (3, 2, 6, 4)
    assert len(outputs.aux_outputs) == 2
    assert torch.equal(outputs.aux_outputs[0].pred_boxes, outputs.boxes[0])
    assert answer.aux_outputs == []
    check_close((answer.pred_logits, answer.pred_boxes), (outputs.pred_logits, outputs.pred_boxes), "without aux_loss")


class MaskBlind(Attention):
    """Ignores its mask."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.inner = REGISTRY.make("attention", "sdpa", d_model=d_model)

    def forward(self, query, key, value, *, mask=None, need_weights=False):
        return AttentionOutput(*self.inner(query, key, value, need_weights=need_weights))


@pytest.mark.fast
@pytest.mark.parametrize("place", ["encoder_attention", "decoder_cross_attention"])
def test_the_laws_catch_a_mask_that_is_ignored(place):
    def make(**options):
        return make_model(**{place: "mask_blind", **options})

    law = laws_of("model")["padded_cells_have_no_influence"]
    with REGISTRY.temporarily("attention", "mask_blind", MaskBlind):
        law(make_model, seeded_draw(0))
        with pytest.raises(AssertionError, match="in the padding"):
            law(make, seeded_draw(0))


# ---- what is refused


@pytest.mark.fast
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["wrong dtype", "torch.uint8", "predict"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), ["wrong dtype", "torch.int64"]),
        (torch.zeros(1, 1, 32, 32), ["wrong shape", "(1, 1, 32, 32)", "[B, 3, H, W]"]),
        (torch.zeros(1, 4, 32, 32), ["wrong shape", "(1, 4, 32, 32)"]),
        (torch.zeros(1, 32, 32, 3), ["wrong shape", "(1, 32, 32, 3)"]),
        (torch.zeros(3, 32, 32), ["wrong shape", "(3, 32, 32)"]),
        (torch.full((1, 3, 32, 32), 255.0), ["unnormalised", "255", "predict"]),
    ],
)
def test_images_that_are_refused(images, words):
    with pytest.raises(ShapeError) as refusal:
        make_model().float()(images)
    message = str(refusal.value)
    assert [word for word in words if word not in message] == []
    assert message.startswith("images: ")
    assert "\n" not in message


@pytest.mark.fast
@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(2, 32, 32),
        torch.zeros(2, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 32, 32, dtype=torch.bool),
        torch.zeros(2, 32, 31, dtype=torch.bool),
        torch.zeros(2, 1, 32, 32, dtype=torch.bool),
    ],
)
def test_masks_that_are_refused(mask):
    with pytest.raises(ShapeError, match=r"mask does not fit the images; got .* expected torch.bool, \(2, 32, 32\)"):
        make_model()(torch.zeros(2, 3, 32, 32).double(), mask)


@pytest.mark.fast
def test_everything_wrong_with_a_config_is_said_at_once():
    with pytest.raises(ConfigError) as refusal:
        detrkit.build("detr_tiny", d_model=30, num_queries=0, enc_layers=-1, matcher="none", positional="sine(scal=1)")
    message = str(refusal.value)
    for word in ("d_model=30", "heads=8", "num_queries", "enc_layers", "'none'", "scal", "'scale'"):
        assert word in message, word


@pytest.mark.fast
def test_unknown_fields_and_label_spaces_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"unknown field 'num_quries'.*num_queries"):
        detrkit.build("detr_tiny", num_quries=3)
    with pytest.raises(DetrkitError, match=r"num_classes=3.*4 classes"):
        detrkit.build("detr_tiny", num_classes=3, label_space=LabelSpace.numbered(4))
    assert make_model(label_space=LabelSpace.numbered(7), num_classes=7).class_embed.out_features == 8
