"""The family: published outputs and losses of every descendant, official files in, denoising that never leaks."""

import json

import numpy as np
import pytest
import torch
from twins import TWINS

import detrkit
from detrkit.checkpoints import save_official
from detrkit.config import difference
from detrkit.criterion import SetCriterion
from detrkit.denoising import Noised
from detrkit.model import DetectorOutput, Restored
from detrkit.targets import check_targets
from detrkit.testing.tensors import check_close
from detrkit.training.precision import autocast
from detrkit.transformer import Proposals

PUBLISHED = {
    "conditional_detr_r50": "conditional_detr_r50",
    "dab_detr_r50": "dab_detr_r50",
    "dn_dab_detr_r50": "dn_detr_r50",
    "deformable_single_scale": "deformable_detr_r50_single_scale",
    "deformable": "deformable_detr_r50",
    "deformable_refine": "deformable_detr_r50_refine",
    "deformable_two_stage": "deformable_detr_r50_two_stage",
    "dino_4scale_r50": "dino_4scale_r50",
}
PROPOSED = {"deformable_two_stage": ("enc_logits", "enc_boxes"), "dino_4scale_r50": ("interm_logits", "interm_boxes")}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_official_weights_in_the_same_answers_out(golden, tmp_path, name):
    content, fill, state, inputs = golden(name)
    torch.save({"model": state}, tmp_path / "official.pth")
    model = detrkit.load(tmp_path / "official.pth")
    assert difference(model.config, detrkit.config(PUBLISHED[name])) == {}
    assert sum(p.numel() for p in model.parameters()) == content["n_parameters"]
    assert all("copy" in entry.note for entry in model.loaded.partial)
    save_official(model, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert set(again) == set(state)
    assert all(torch.equal(again[name], entry) for name, entry in state.items())
    outputs = model.double()(*inputs)
    named = {"pred_logits": outputs.logits, "pred_boxes": outputs.boxes}
    for key, part in zip(PROPOSED.get(name, ()), outputs.proposals or (), strict=False):
        named[key] = part[None]
    found = fill.compare(content, named, verbose=False)
    assert found["ok"], found
    assert found["worst"] < 1e-11
    assert {key for key in content["outputs"] if key != "interm_anchor_boxes"} == set(named)


# --- losses -----------------------------------------------------------------------------------------------------------


def outputs_of(fill, seed, tag, queries, classes, layers=6):
    parts = [fill.make_outputs(seed, f"{tag}{layer}", 2, queries, classes) for layer in range(layers)]
    return (torch.tensor(np.stack(part)).double().requires_grad_() for part in zip(*parts, strict=True))


def proposals_of(fill, seed, family, name, agnostic):
    suffix, queries = ("enc", 200) if family == "deformable" else ("interm", 100)
    parts = fill.make_outputs(seed, f"{family}.{name}.{suffix}", 2, queries, 91)
    return Proposals(*(torch.tensor(part).double().requires_grad_() for part in parts), agnostic)


def restored_of(fill, seed, tag, counts):
    """Three groups, the objects first and then as many that are to say nothing."""
    widest = max(counts)
    objects = torch.full((2, 3, 2 * widest), -1)
    for image, count in enumerate(counts):
        objects[image, :, :count] = torch.arange(count)
    logits, boxes = outputs_of(fill, seed, tag, 3 * 2 * widest, 91)
    noised = Noised(torch.zeros_like(objects), torch.zeros(*objects.shape, 4), objects, objects < 0)
    return Restored(logits, boxes, noised)


def norms_of(outputs, proposals):
    """Norms of the gradients of all that was charged, by the names of the files."""
    stacks = {"layer": outputs, "dn": outputs.restored}
    charged = {
        f"{name}{layer}": gradients
        for name, part in stacks.items()
        if part is not None
        for layer, gradients in enumerate(zip(part.logits.grad, part.boxes.grad, strict=True))
    }
    charged[proposals] = outputs.proposals.logits.grad, outputs.proposals.boxes.grad
    return {name: {"logits": float(x.norm()), "boxes": float(y.norm())} for name, (x, y) in charged.items()}


def pairs_of(criterion, outputs, targets):
    """Who was matched with what in each layer, by the names of the files."""
    truth = check_targets(targets, 91, like=outputs.boxes)
    layers = criterion.matching(*outputs.pair, truth)
    return {
        f"layer{number}": [[a.rows.tolist(), a.cols.tolist()] for a in images] for number, images in enumerate(layers)
    }


@pytest.mark.parametrize(
    ("family", "preset"), [("deformable", "deformable_detr_r50_two_stage"), ("dino", "dino_4scale_r50")]
)
def test_losses_equal_the_golden_ones(shared, fill, family, preset):
    """Pairs, terms, their sum, the norms of all gradients, and samples of those of the last layer."""
    golden = json.loads((shared / "golden" / f"losses_{family}.json").read_text())
    criterion, checked = SetCriterion.from_config(detrkit.config(preset)), set()
    suffix = "enc" if family == "deformable" else "interm"
    for case_name, case in golden["cases"].items():
        name, counts = case_name.removesuffix("_with_dn"), case["target_counts"]
        every = outputs_of(fill, golden["seed"], f"{family}.{name}.layer", 100, 91)
        proposals = proposals_of(fill, golden["seed"], family, name, family == "deformable")
        restored = None
        if case_name != name:
            restored = restored_of(fill, golden["seed"], f"{family}.{name}.dn", counts)
        outputs = DetectorOutput(*every, proposals, restored)
        targets = fill.make_targets(golden["seed"], f"{family}.{name}", counts, 91)
        pairs = pairs_of(criterion, outputs, targets)
        assert pairs == {layer: case["matching"][layer] for layer in pairs}
        losses = criterion(outputs, targets)
        found = {key.replace("_enc", f"_{suffix}"): float(value.detach()) for key, value in losses.terms.items()}
        assert fill.compare_numbers({key: case["losses"][key] for key in found}, found, rel=1e-9) == []
        assert losses.total.item() == pytest.approx(case["weighted_total"], rel=1e-9)
        losses.total.backward()
        wanted = case["gradient_norms_of_weighted_total"]
        assert fill.compare_numbers(wanted, norms_of(outputs, suffix), rel=1e-9) == []
        for side, sample in case["gradient_samples_layer5"].items():
            gradient = getattr(outputs, side).grad[-1].flatten()[sample["index"]].tolist()
            assert fill.compare_numbers(sample["value"], gradient, rel=1e-7, abs_=1e-12) == []
        checked |= set(found)
    assert {"loss_ce", "loss_giou_4", f"loss_bbox_{suffix}"} <= checked
    assert ("loss_ce_dn_0" in checked) == (family == "dino")


# --- training ---------------------------------------------------------------------------------------------------------


def batch(objects):
    generator = torch.Generator().manual_seed(1)
    images, mask = torch.randn(2, 3, 96, 80, generator=generator), torch.zeros(2, 96, 80, dtype=torch.bool)
    mask[1, 70:] = True
    targets = [
        {"boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.3, "labels": torch.arange(n) % 3} for n in objects
    ]
    return images, mask, targets


ALL_EMPTY = (0, 0)
BATCHES = [
    ((3, 1), "none"),
    ((2, 0), "none"),
    (ALL_EMPTY, "none"),
    ((30, 1), "none"),
    ((3, 1), "bf16"),
    (ALL_EMPTY, "bf16"),
]


@pytest.mark.fast
@pytest.mark.parametrize(("objects", "amp"), BATCHES)
@pytest.mark.parametrize("name", TWINS)
def test_every_parameter_gets_a_finite_gradient_for_every_batch(name, objects, amp):
    torch.manual_seed(0)
    model = detrkit.build(name).train()
    images, mask, targets = batch(objects)
    with autocast(images.device, amp):
        outputs = model(images, mask, targets)
    losses = SetCriterion.from_config(model.config)(outputs, targets)
    assert {term.dtype for term in (losses.total, *losses.terms.values())} == {torch.float32}
    losses.total.backward()
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    assert sum(p.numel() for p in model.parameters()) < 2e6


@pytest.mark.fast
@pytest.mark.parametrize("name", [name for name in TWINS if detrkit.config(name).denoising])
def test_denoising_never_leaks_into_what_is_detected(name):
    torch.manual_seed(0)
    model = detrkit.build(name, dropout=0.0).double().train()
    images, mask, targets = batch((3, 1))
    noised, plain = model(images.double(), mask, targets), model(images.double(), mask)
    assert noised.restored is not None
    assert plain.restored is None
    check_close((noised.logits, noised.boxes), (plain.logits, plain.boxes), "with noised queries beside", rtol=1e-9)
    model.eval()
    assert model(images.double(), mask, targets).restored is None


@pytest.mark.fast
@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_parts_of_the_published(name):
    published = {"conditional_detr": "conditional_detr_r50", "dab_detr": "dab_detr_r50", "dn_detr": "dn_detr_r50"}
    published |= {
        "lw_detr_small": "lw_detr_small",
        "rf_detr": "rf_detr_base",
        "rt_detr": "rt_detr_r50",
        "rt_detr_v2": "rt_detr_v2_r50",
        "dino": "dino_4scale_r50",
        "detr": "detr_r50",
        "deformable_detr": "deformable_detr_r50",
    }
    stem, _, rest = name.partition("_tiny")
    changed = difference(detrkit.config(name), detrkit.config(published[stem] + rest))
    parts = {"queries", "placement", "denoising", "encoder_attention", "decoder_self_attention", "positional"}
    parts |= {
        "decoder_cross_attention",
        "classification",
        "refinement",
        "share_heads",
        "decoder_norm",
        "activation",
        "encoder_activation",
    }
    assert set(changed) & parts == set()


@pytest.mark.fast
def test_steps_of_the_tree_change_what_the_papers_change():
    def changed(a, b):
        return set(difference(detrkit.config(a), detrkit.config(b)))

    loss = {"classification", "set_cost_class", "cls_loss_coef", "selection", "num_queries"}
    readings = {"decoder_self_attention", "decoder_cross_attention", "placement"}
    assert changed("detr_r50", "conditional_detr_r50") == loss | readings
    assert changed("dab_detr_r50", "dn_detr_r50") == {"queries", "denoising"}
    assert changed("deformable_detr_r50", "deformable_detr_r50_refine") == {"refinement", "share_heads"}
    assert changed("deformable_detr_r50_refine", "deformable_detr_r50_two_stage") == {"queries"}


@pytest.mark.fast
def test_what_does_not_fit_is_refused_by_both_names():
    with pytest.raises(detrkit.DetrkitError, match=r"denoising=dn.*queries=positions"):
        detrkit.build("detr_tiny", denoising="dn")
