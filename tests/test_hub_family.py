"""Folders of transformers for DETR's descendants: read and written, with its own classes as the judge."""

import json
import os

import pytest
import torch
from parity import draw_scene, randomize_
from safetensors.torch import load_file, save_file

import detrkit
from detrkit.checkpoints import load, save_official, save_transformers
from detrkit.checkpoints.layouts import layouts
from detrkit.errors import CheckpointError

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

SMALL = {
    "backbone": "torchvision(model='resnet18', trainable_levels=3)", "d_model": 32, "num_queries": 6, "num_classes": 3,
    "enc_layers": 1, "dec_layers": 3, "dim_feedforward": 24, "cls_loss_coef": 3.0, "set_cost_bbox": 4.0,
    "short_side": 480, "long_side": 640, "matcher": "numpy",
}  # fmt: skip
FEW = "deformable(heads=4, points=2)"
MODELS = {
    "conditional": ("conditional_detr_r50", {"encoder_attention": "matrix(heads=4)"}),
    "conditional, learned": ("conditional_detr_r50", {"positional": "learned"}),
    "dab": ("dab_detr_r50", {"reference_eps": 1e-5, "dropout": 0.1}),
    "deformable": ("deformable_detr_r50", {"encoder_attention": FEW}),
    "deformable, one level": ("deformable_detr_r50_single_scale", {"aux_loss": False}),
    "deformable, five levels": ("deformable_detr_r50", {"neck": "pyramid(levels=5, extra=2)"}),
    "deformable, refined": ("deformable_detr_r50_refine", {}),
    "deformable, two stages": ("deformable_detr_r50_two_stage", {}),
}
OFFICIALLY = {
    "conditional": {"encoder_attention": "sdpa"},
    "conditional, learned": {"positional": "sine"},
    "dab": {"reference_eps": 1e-3},
    "deformable": {"encoder_attention": "deformable(points=2)"},
}
"""What the official code has one argument for, none, or another value."""
WAYS = [("v4", "timm"), ("v5", "resnet")]


def built(name):
    preset, changes = MODELS[name]
    return randomize_(detrkit.build(preset, **{**SMALL, **changes}), torch.Generator().manual_seed(5)).eval()


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    return request.param, built(request.param)


def assert_same_state(state, other):
    assert set(state) == set(other)
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


@torch.no_grad()
def answers(model):
    """Logits and boxes, in float32: exact islands of transformers are the matter of the parity tests."""
    images, mask = draw_scene(torch.Generator().manual_seed(3), (70, 101), (96, 64))
    if isinstance(model, detrkit.model.Detector):
        return model(images.float(), mask).pair[0][-1], model(images.float(), mask).pair[1][-1]
    out = model(pixel_values=images.float(), pixel_mask=(~mask).long())
    return out.logits, out.pred_boxes


def same_by_meaning(config, other):
    """Equal but for attentions and matchers of the same function, which no file tells."""
    shown = {"encoder_attention": "sdpa(heads=4)"} if config.encoder_attention == "matrix(heads=4)" else {}
    return config.replace(matcher="scipy", **shown) == other


@pytest.mark.parametrize(("names", "trunk"), WAYS)
def test_written_it_comes_back_and_gives_the_same_answers_there(case, tmp_path, names, trunk):
    name, ours = case
    save_transformers(ours, tmp_path, names=names, trunk=trunk)
    again = load(tmp_path)
    assert same_by_meaning(ours.config, again.config)
    assert_same_state(ours.state_dict(), again.state_dict())
    assert again.loaded.origin == f"transformers_{name.partition(',')[0]}"
    assert all("copy" in entry.note for entry in again.loaded.partial)
    theirs, told = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    logits, boxes = answers(ours)
    assert min(logits.std(1).mean(), boxes.std(1).mean()) > 1e-3, "queries that agree would hide mistakes"
    for found, expected in zip(answers(theirs.eval()), (logits, boxes), strict=True):
        assert (found - expected).abs().max() < 2e-4


def test_what_transformers_writes_is_read(case, tmp_path):
    """Its own config.json, its own choice among tied entries."""
    _, ours = case
    save_transformers(ours, tmp_path / "ours")
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours" / "preprocessor_config.json").rename(tmp_path / "theirs" / "preprocessor_config.json")
    again = load(tmp_path / "theirs")
    assert same_by_meaning(ours.config, again.config)
    assert_same_state(ours.state_dict(), again.state_dict())


def test_official_file_comes_back(case, tmp_path):
    name, ours = case
    model = detrkit.build(ours.config.replace(matcher="scipy", **OFFICIALLY.get(name, {})))
    save_official(model, tmp_path / "a.pth")
    again = load(tmp_path / "a.pth")
    assert again.config == model.config
    assert_same_state(model.state_dict(), again.state_dict())


def test_one_head_for_classes_is_copied_for_every_layer(tmp_path):
    """With refined boxes, transformers by default ties the heads for classes alone."""
    small = {"d_model": 32, "num_queries": 6, "num_labels": 3, "encoder_layers": 1, "decoder_layers": 3}
    config = transformers.DeformableDetrConfig(
        **small, with_box_refine=True, use_timm_backbone=True, backbone="resnet18"
    )
    theirs = transformers.DeformableDetrForObjectDetection(config)
    theirs.save_pretrained(tmp_path)
    kept = {name for name in load_file(tmp_path / "model.safetensors") if "class_embed" in name}
    assert kept == {"class_embed.0.weight", "class_embed.0.bias"}
    ours = load(tmp_path)
    assert ours.config.share_heads is False
    assert all(torch.equal(head.weight, theirs.class_embed[0].weight) for head in ours.class_embed)
    assert [entry.source for entry in ours.loaded.only("unused")] == ["config.json: tie_word_embeddings=True"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each model."""
    found = {}
    for name in ("conditional", "dab", "deformable", "deformable, refined"):
        found[name] = tmp_path_factory.mktemp("model")
        save_transformers(built(name), found[name])
    return found


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("conditional", {"auxiliary_loss": True}, ["auxiliary_loss", "another network"]),
        ("conditional", {"focal_alpha": 0.5}, ["focal_alpha", "0.25"]),
        ("conditional", {"encoder_layers": 7}, ["encoder_layers", "1, which the weights show"]),
        ("conditional", {"activation_function": "prelu"}, ["activation_function", "relu or gelu or silu"]),
        ("conditional", {"position_embedding_type": "learned"}, ["position_embedding_type", "sine, which"]),
        ("dab", {"num_patterns": 3}, ["num_patterns", "3", "0"]),
        ("dab", {"keep_query_pos": True}, ["keep_query_pos", "False"]),
        ("dab", {"temperature_height": 10}, ["temperature_height", "10", "20"]),
        ("dab", {"sine_position_embedding_scale": 1.0}, ["sine_position_embedding_scale", "None"]),
        ("dab", {"normalize_before": True}, ["normalize_before"]),
        ("dab", {"hidden_size": 64}, ["hidden_size", "32, which the weights show"]),
        ("dab", {"activation_function": "relu"}, ["unknown", "activation_fn.weight"]),
        ("deformable", {"two_stage": True, "with_box_refine": True}, ["missing", "enc_output"]),
        ("deformable", {"num_feature_levels": 3}, ["num_feature_levels", "4, which the weights show"]),
        ("deformable", {"decoder_n_points": 2}, ["wrong shape", "sampling_offsets"]),
        ("deformable", {"backbone_kwargs": {"out_indices": [3, 4]}}, ["out_indices", "[2, 3, 4], which"]),
        ("deformable, refined", {"with_box_refine": False}, ["differs"]),
    ],
)
def test_words_that_contradict_or_mean_another_network_are_refused(folders, tmp_path, name, fields, words):
    for file in folders[name].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, **fields}))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_copies_that_differ_are_refused(folders, tmp_path):
    folder = folders["deformable, refined"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    state["model.decoder.bbox_embed.1.layers.0.bias"] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.decoder\.bbox_embed\.1\.layers\.0\.bias: .*differs"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("dab", {"reference_eps": 1e-3}, "reference_eps"),
        ("dab", {"positional": "sine(temperature=10.0)"}, "positional"),
        ("conditional", {"cls_loss_coef": 2.5}, "cls_loss_coef"),
        ("conditional", {"decoder_self_attention": "sdpa"}, "decoder_self_attention"),
        ("deformable", {"neck": "pyramid(levels=2, extra=0)"}, "neck"),
        ("deformable", {"decoder_norm": True}, "decoder_norm"),
        ("deformable", {"decoder_self_attention": "sdpa(heads=4)"}, "decoder_cross_attention"),
    ],
)
def test_what_transformers_cannot_express_is_refused_by_field(tmp_path, name, changes, field):
    preset, own = MODELS[name]
    model = detrkit.build(preset, **{**SMALL, **own, **changes})
    with pytest.raises(CheckpointError) as caught:
        save_transformers(model, tmp_path / "a")
    assert caught.value.field == field, str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


# --- official names ---------------------------------------------------------------------------------------------------

MANIFESTS = {
    "detr_r50": ("official", ""),
    "conditional_detr_r50": ("conditional", ""),
    "dab_detr_r50": ("dab", "dab"),
    "dn_dab_detr_r50": ("dab", "dn"),
    "deformable_single_scale": ("deformable", "plain"),
    "deformable": ("deformable", "plain"),
    "deformable_refine": ("deformable", "refine"),
    "deformable_two_stage": ("deformable", "two_stage"),
    "dino_4scale_r50": ("dino", ""),
}


@pytest.mark.fast
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_name_of_a_manifest_is_read_and_written(shared, manifest):
    """Copies too: what the official code stores twice is stored twice."""
    name, spelling = MANIFESTS[manifest]
    lines = (shared / "golden" / "manifests" / f"{manifest}.txt").read_text().splitlines()
    state = {line.split()[0]: torch.zeros(1) for line in lines if line}
    table = next(layout for layout in layouts() if layout.name == name).spellings[spelling]
    ours = table.to_ours(state)
    assert set(table.from_ours(ours)) == set(state)
    copies = sum(" = " in line for line in lines)
    assert len(ours) <= len(state) - copies
