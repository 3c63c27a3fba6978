"""DETR's descendants against transformers, an independent implementation: every layer, in float64, with padding.

The nets are filled with the weights that `save_transformers` writes, under the names that version 5 has in memory. What
transformers computes in float32 whatever its weights are, it computes here in float64.
"""

import importlib

import pytest
import torch
from parity import FLOAT32, FLOAT64, check_apart, default_dtype, draw_scene, randomize_
from safetensors.torch import load_file

import detrkit
from detrkit.checkpoints import save_transformers
from detrkit.model import DetectorOutput
from detrkit.testing.tensors import check_close

MODELS = {
    "conditional_detr_r50": {},
    "dab_detr_r50": {"reference_eps": 1e-5},  # of transformers; 1e-3 is published
    "deformable_detr_r50": {},
    "deformable_detr_r50_single_scale": {},
    "deformable_detr_r50_refine": {},
    "deformable_detr_r50_two_stage": {},
}
SMALL = {
    "backbone": "torchvision(model='resnet18', trainable_levels=3)",
    "d_model": 32,
    "num_queries": 12,
    "num_classes": 5,
    "enc_layers": 2,
    "dec_layers": 3,
    "dim_feedforward": 40,
    "dropout": 0.0,
}
KINDS = ("conditional_detr", "dab_detr", "deformable_detr")


class InFloat64:
    """The module torch, in which float32 means float64."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    for kind in KINDS:
        module = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
        monkeypatch.setattr(module, "torch", InFloat64())
    with default_dtype(torch.float64):
        yield library


@pytest.fixture
def make_pair(transformers, tmp_path):
    """Makes our net and theirs, with the same random weights."""

    def make(name, seed, sizes):
        with default_dtype(torch.float32):
            ours = detrkit.build(name, **{**MODELS[name], **sizes}).double().eval()
        randomize_(ours, torch.Generator().manual_seed(seed))
        save_transformers(ours, tmp_path, names="v5")
        theirs = transformers.AutoModelForObjectDetection.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
        theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
        return ours, theirs.double().eval()

    return make


# ---- what they say after every decoder layer


def inverse_sigmoid(x):
    low, high = x.clamp(min=1e-5), (1 - x).clamp(min=1e-5)
    return (low / high).log()


def moved(offsets, references):
    """Boxes: offsets of all layers from points or boxes."""
    width = references.shape[-1]
    return torch.cat([offsets[..., :width] + inverse_sigmoid(references), offsets[..., width:]], dim=-1).sigmoid()


def look_conditional(theirs, images, mask):
    outputs = theirs.model(images, pixel_mask=mask, output_hidden_states=True)
    *earlier, last = outputs.decoder_hidden_states[1:]
    states = torch.stack([*map(theirs.model.decoder.layernorm, earlier), last])
    boxes = moved(theirs.bbox_predictor(states), outputs.reference_points.transpose(0, 1))
    return DetectorOutput(theirs.class_labels_classifier(states), boxes)


def look_dab(theirs, images, mask):
    outputs = theirs.model(images, pixel_mask=mask)
    states = outputs.intermediate_hidden_states
    return DetectorOutput(theirs.class_embed(states), moved(theirs.bbox_predictor(states), outputs.reference_points))


def look_deformable(theirs, images, mask):
    outputs = theirs.model(images, pixel_mask=mask)
    states = outputs.intermediate_hidden_states.unbind(1)
    references = [outputs.init_reference_points, *outputs.intermediate_reference_points.unbind(1)[:-1]]
    told = zip(theirs.class_embed, theirs.bbox_embed, states, references, strict=False)
    layers = [(classify(state), moved(box(state), place)) for classify, box, state, place in told]
    logits, boxes = (torch.stack(part) for part in zip(*layers, strict=True))
    proposals = None
    if outputs.enc_outputs_class is not None:
        proposals = outputs.enc_outputs_class, outputs.enc_outputs_coord_logits.sigmoid()
    return DetectorOutput(logits, boxes, proposals)


LOOKS = {"Conditional": look_conditional, "DabDetrFo": look_dab, "Deformable": look_deformable}


def look(theirs, images, mask):
    """What they say after every layer, of which the last is what they say as a whole."""
    sight = next(sight for start, sight in LOOKS.items() if type(theirs).__name__.startswith(start))
    every = sight(theirs, images, (~mask).long())
    whole = theirs(images, pixel_mask=(~mask).long())
    check_close((every.pred_logits, every.pred_boxes), (whole.logits, whole.pred_boxes), "in their last layer")
    return every


# ---- equal to ours


@torch.no_grad()
def check_equal(ours, theirs, scene):
    """All layers, and the proposals of two stages, on a scene in which nothing hides."""
    expected, found = look(theirs, *scene), ours(*scene)
    assert expected.boxes.std(2).mean() > 0.015, "all queries say one box"
    assert (expected.boxes[:, 0] - expected.boxes[:, 1]).abs().mean() > 0.003, "all images look the same"
    check_apart(found, expected, FLOAT64, "in float64")
    assert (found.proposals is None) == (expected.proposals is None)
    if found.proposals is not None:
        check_apart(found.proposals[:2], expected.proposals, FLOAT64, "in the proposals")
    return found


@torch.no_grad()
def check_float32(ours, scene, exact):
    """As near as float32 is; of two stages the proposals, since rounding may change which of them are the best."""
    with default_dtype(torch.float32):
        found = ours.float()(scene[0].float(), scene[1])
    if found.proposals is not None:
        found, exact = found.proposals, exact.proposals
    check_apart(found, exact, FLOAT32, "in float32 from float64")


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 12))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_small_net_equals_transformers(make_pair, name, seed):
    scene = draw_scene(torch.Generator().manual_seed(100 + seed), (117, 171), (150, 90))
    check_equal(*make_pair(name, seed, SMALL), scene)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MODELS)
def test_the_published_net_equals_transformers(make_pair, name, seed):
    scene = draw_scene(torch.Generator().manual_seed(100 + seed), (203, 150), (139, 210))
    ours, theirs = make_pair(name, seed, {})
    check_float32(ours, scene, exact=check_equal(ours, theirs, scene))
