"""RT-DETR: the outputs, losses and gradients of transformers, which holds an implementation of its own; its files."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

import detrkit
from detrkit.checkpoints import save_official
from detrkit.checkpoints.layouts import layouts
from detrkit.config import difference
from detrkit.criterion import SetCriterion
from detrkit.denoising import Noised
from detrkit.model import DetectorOutput, Restored
from detrkit.testing.tensors import check_close
from detrkit.transformer import Proposals

LAYERS, QUERIES, CLASSES, GROUPS = 3, 9, 5, 2


PUBLISHED = {"hf_rtdetr_r18": "rt_detr_r18", "hf_rtdetr_r50": "rt_detr_r50", "hf_rtdetrv2_r50": "rt_detr_v2_r50"}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_weights_of_transformers_in_the_same_answers_out(golden, tmp_path, name):
    """All decoder layers, the proposals, and the logits of every token."""
    content, fill, state, (images, _) = golden(name)
    save_file({entry: tensor.clone() for entry, tensor in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(content["config"]))
    model = detrkit.load(tmp_path)
    published = detrkit.config(PUBLISHED[name], backbone=model.config.backbone)
    assert difference(model.config, published) == {}
    assert model.config.backbone.partition("'")[2][:3] == PUBLISHED[name][-3:]
    assert sum(p.numel() for p in model.parameters()) == content["n_parameters"]
    every = []
    model.queries.class_embed.register_forward_hook(lambda _, __, logits: every.append(logits))
    outputs = model.double()(images)
    named = {"pred_logits": outputs.logits, "pred_boxes": outputs.boxes, "enc_logits": every[0][None]}
    named |= {"enc_topk_logits": outputs.proposals.logits[None], "enc_topk_boxes": outputs.proposals.boxes[None]}
    found = fill.compare(content, named, verbose=False)
    assert found["ok"], found
    assert found["worst"] < 1e-11
    assert set(content["outputs"]) == set(named)


def official_state(shared, fill):
    """Entries of the official r50 with values by formula."""
    lines = (shared / "manifests" / "rtdetr_r50vd.txt").read_text().splitlines()
    shapes = {
        name: tuple(map(int, re.findall(r"\d+", shape))) for name, shape, _ in (ln.split("\t") for ln in lines if ln)
    }
    return {name: torch.from_numpy(fill.value(1, name, shape)) for name, shape in shapes.items()}


def test_official_file_is_read_and_written_again(shared, fill, tmp_path):
    """The averaged weights are those that count; every entry has its place."""
    state = official_state(shared, fill)
    noise = {"model": {"nothing": torch.zeros(1)}, "last_epoch": 71}
    torch.save({**noise, "ema": {"module": state, "updates": 7}}, tmp_path / "official.pth")
    model = detrkit.load(tmp_path / "official.pth")
    assert (model.loaded.origin, model.label_space) == ("rt_detr", detrkit.labels.COCO)
    assert difference(model.config, detrkit.config("rt_detr_r50")) == {}
    assert [entry for entry in model.loaded.entries if entry.action == "unused" and "." in entry.source] == []
    save_official(model, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert {name: tuple(t.shape) for name, t in again.items()} == {name: tuple(t.shape) for name, t in state.items()}
    assert all(torch.equal(again[name], state[name]) for name in state)


SMALL = {
    "num_queries": 10, "num_classes": 5, "d_model": 32, "dim_feedforward": 48, "dec_layers": 2,
    "backbone": "resnet_vd(model='r18')", "encoder": "hybrid(expansion=0.5)",
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "cross"), [("rt_detr_r18", "deformable"), ("rt_detr_v2_r18", "deformable(points=2, method='discrete')")]
)
@torch.no_grad()
def test_what_is_written_transformers_reads_and_answers_alike(tmp_path, preset, cross):
    """On an image that is no square, of random weights that hide no mistake."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from detrkit.checkpoints import save_transformers

    torch.manual_seed(3)
    ours = detrkit.build(preset, **SMALL, decoder_cross_attention=cross).eval()
    for parameter in ours.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    save_transformers(ours, tmp_path)
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path).double().eval()
    images = torch.rand(2, 3, 96, 160, dtype=torch.float64)
    expected, found = theirs(pixel_values=images), ours.double()(images)
    check_close(found.pred_logits, expected.logits, "in logits", rtol=1e-9)
    check_close(found.pred_boxes, expected.pred_boxes, "in boxes", rtol=1e-9)
    again = detrkit.load(tmp_path)
    assert difference(again.config, ours.config) == {}
    assert again.loaded.origin == f"transformers_{preset.removesuffix('_r18')}"


@pytest.mark.fast
def test_layouts_are_found_by_their_files():
    assert {"rt_detr", "transformers_rt_detr", "transformers_rt_detr_v2"} <= {layout.name for layout in layouts()}


# --- losses -----------------------------------------------------------------------------------------------------------


def said(generator, *shape):
    """Logits and boxes that ask for a gradient."""
    logits = 2 * torch.randn(*shape, CLASSES, generator=generator, dtype=torch.float64)
    boxes = torch.rand(*shape, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2
    return logits.requires_grad_(), boxes.requires_grad_()


def noised_of(counts):
    """In each group first the objects, then as many that are to say nothing."""
    widest = max(counts)
    objects = torch.full((len(counts), GROUPS, 2 * widest), -1)
    for image, count in enumerate(counts):
        objects[image, :, :count] = torch.arange(count)
    return Noised(torch.zeros_like(objects), torch.zeros(*objects.shape, 4), objects, objects < 0)


def layer_of(pair, layer):
    return {"logits": pair[0][layer], "pred_boxes": pair[1][layer]}


@pytest.mark.fast
@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0), (7, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_losses_and_gradients_equal_those_of_transformers(counts, seed):
    theirs = pytest.importorskip("transformers.loss.loss_rt_detr", reason="transformers is not installed")
    from transformers import RTDetrConfig

    generator = torch.Generator().manual_seed(seed)
    every, proposed = said(generator, LAYERS, 2, QUERIES), said(generator, 1, 2, QUERIES)
    noised = noised_of(counts) if any(counts) else None
    restored = None if noised is None else said(generator, LAYERS, 2, noised.objects[0].numel())
    targets = [
        {
            "boxes": torch.rand(count, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.3,
            "labels": torch.randint(CLASSES, (count,), generator=generator),
        }
        for count in counts
    ]
    last, others = layer_of(every, -1), [layer_of(every, layer) for layer in range(LAYERS - 1)]
    outputs = {**last, "auxiliary_outputs": [*others, layer_of(proposed, 0)]}
    if noised is not None:
        positive = [(image >= 0).nonzero()[:, 0] for image in noised.objects.flatten(1)]
        outputs["dn_auxiliary_outputs"] = [layer_of(restored, layer) for layer in range(LAYERS)]
        outputs["denoising_meta_values"] = {"dn_positive_idx": positive, "dn_num_group": GROUPS}
    labelled = [{"boxes": t["boxes"], "class_labels": t["labels"]} for t in targets]
    expected = theirs.RTDetrLoss(RTDetrConfig(num_labels=CLASSES))(outputs, labelled)

    criterion = SetCriterion.from_config(detrkit.config("rt_detr_r50", num_classes=CLASSES))
    ours = criterion(
        DetectorOutput(
            *every, Proposals(*(x[0] for x in proposed)), None if noised is None else Restored(*restored, noised)
        ),
        targets,
    )
    check_close(ours.total, sum(expected.values()), "in sum", rtol=1e-9)
    check_close(ours.terms["loss_ce_enc"], expected[f"loss_vfl_aux_{LAYERS - 1}"], "of the proposals", rtol=1e-9)
    check_close(5 * ours.terms["loss_bbox_0"], expected["loss_bbox_aux_0"], "of the first layer", rtol=1e-9)
    leaves = [*every, *proposed, *(restored or ())]
    found = torch.autograd.grad(ours.total, leaves, retain_graph=True)
    check_close(found, torch.autograd.grad(sum(expected.values()), leaves), "in gradient", rtol=1e-9)
