"""LW-DETR and RF-DETR: published answers, transformers beside them, windows, and groups as it charges them."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import detrkit
from detrkit.checkpoints import save_transformers
from detrkit.config import difference
from detrkit.criterion import SetCriterion
from detrkit.errors import CheckpointError, ConfigError
from detrkit.presets import training_recipe
from detrkit.registry import REGISTRY
from detrkit.testing.tensors import check_close
from detrkit.training.optimizer import make_optimizer

os.environ["HF_HUB_OFFLINE"] = "1"

PUBLISHED = {
    "hf_lwdetr_tiny": ("lw_detr_tiny", {}),
    "hf_lwdetr_small": ("lw_detr_small", {}),
    # what transformers takes by default, where the published code has two points, another epsilon and no dropout
    "hf_rfdetr_base": (
        "rf_detr_base",
        {
            "neck": "projector(norm='layer', eps=1e-05)",
            "decoder_cross_attention": "deformable(heads=16)",
            "dropout": 0.1,
        },
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_folders_of_transformers_in_the_golden_answers_out(golden, tmp_path, name):
    content, fill, state, inputs = golden(name)
    save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(content["config"]))
    model = detrkit.load(tmp_path)
    preset, changes = PUBLISHED[name]
    assert difference(model.config, detrkit.config(preset, **changes)) == {}
    assert sum(p.numel() for p in model.parameters()) == content["n_parameters"]
    outputs = model.double()(*inputs)
    named = {
        "pred_logits": outputs.logits[-1:],
        "pred_boxes": outputs.boxes[-1:],
        "enc_logits": outputs.proposals.logits[None],
    }
    found = fill.compare(content, named, verbose=False)
    assert found["ok"], found
    assert found["worst"] < 1e-12
    assert set(content["outputs"]) == set(named)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("lw_detr_tiny", 12_052_002),
        ("lw_detr_small", 14_557_378),
        ("rf_detr_base", 32_174_530),
        ("rf_detr_nano", 30_467_298),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in detrkit.build(preset).parameters()) == parameters


@pytest.mark.parametrize("preset", ["lw_detr_tiny", "lw_detr_small", "rf_detr_base", "rf_detr_nano"])
def test_recipes_slow_the_trunk_down_block_by_block(preset):
    with torch.device("meta"):
        model = detrkit.build(preset)
    rates = {
        id(p): group for group in make_optimizer(model, training_recipe(preset)).param_groups for p in group["params"]
    }
    blocks = [block.attn.qkv.weight for block in model.backbone.blocks if block.attn.qkv.weight.requires_grad]
    found = [rates[id(weight)]["lr"] for weight in (model.backbone.patch_embed.weight, *blocks)]
    assert found[1:] == pytest.approx([0.8 ** (len(blocks) - 1 - i) * found[-1] for i in range(len(blocks))], rel=5e-3)
    assert found[0] < found[1]
    assert rates[id(model.class_embed.weight)]["lr"] == 1e-4
    assert rates[id(model.decoder.norm.weight)]["lr"] == pytest.approx(0.7e-4)
    assert rates[id(model.backbone.blocks[0].norm1.weight)]["weight_decay"] == 0
    assert rates[id(model.decoder.norm.weight)]["weight_decay"] == 1e-4


# --- beside transformers ----------------------------------------------------------------------------------------------

SMALL = {
    "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 24, "decoder_n_points": 2, "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4, "num_queries": 6, "num_labels": 3, "group_detr": 3, "c2f_num_blocks": 2,
    "dropout": 0.0,
}  # fmt: skip
BLOCKS = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4}
VIT = {**BLOCKS, "window_block_indices": [0, 2], "out_indices": [1, 2, 4], "num_windows": 4, "image_size": 1024}
DINO = {**BLOCKS, "out_indices": [2, 4], "num_windows": 2, "image_size": 70, "patch_size": 14}
MODELS = {
    "lw": ("LwDetr", "ViT", VIT, {"projector_scale_factors": [1.0]}),
    "lw, several scales": ("LwDetr", "ViT", VIT, {"projector_scale_factors": [2.0, 1.0, 0.5]}),
    "rf": ("RfDetr", "Dinov2", DINO, {}),
    "rf, published epsilon": ("RfDetr", "Dinov2", DINO, {"layer_norm_eps": 1e-6}),
}
SIZES = {"LwDetr": (96, 64), "RfDetr": (56, 84)}


def pair(name, seed, folder):
    """A model of transformers in float64 with random weights that hide no mistake, and ours with the same."""
    transformers = pytest.importorskip("transformers")
    kind, trunk, nested, changes = MODELS[name]
    backbone = getattr(transformers, f"{kind}{trunk}Config")(**nested)
    config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, **{**SMALL, **changes})
    theirs, generator = getattr(transformers, f"{kind}ForObjectDetection")(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                scale = 0.3 if tensor.ndim == 1 else (1.5 / tensor[0].numel()) ** 0.5
                tensor.copy_(scale * drawn + (tensor.ndim == 1) * key.endswith(("weight", "lambda1")))
                if key.endswith("running_var"):
                    tensor.copy_(0.5 + drawn.abs())
    theirs.save_pretrained(folder)
    return theirs.double(), detrkit.load(folder).double()


def smooth(kind, seed):
    """Two images of transformers' size for the kind, smooth so that windows differ."""
    coarse = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(coarse, SIZES[kind], mode="bicubic")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_same_answers_as_transformers(tmp_path, name, seed):
    theirs, ours = pair(name, seed, tmp_path)
    images = smooth(MODELS[name][0], seed)
    expected, found = theirs.eval()(images), ours.eval()(images)
    assert expected.pred_boxes.std(1).min() > 1e-3, "queries that agree would hide mistakes"
    # transformers stretches RF-DETR's positions, and has the wavelengths of the codes of boxes, in float32
    early = 1e-5 if name.startswith("rf") else 1e-10
    check_close(found.proposals.logits, expected.enc_outputs_class, "from transformers", rtol=early)
    check_close(found.proposals.boxes, expected.enc_outputs_coord_logits, "from transformers", rtol=early)
    check_close(found.pred_logits, expected.logits, "from transformers", rtol=1e-5)
    check_close(found.pred_boxes, expected.pred_boxes, "from transformers", rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_folders_that_we_write_are_theirs(tmp_path, name):
    """transformers reads them with all weights and gives the same answers; so do we, to the bit."""
    transformers = pytest.importorskip("transformers")
    theirs, ours = pair(name, 5, tmp_path / "theirs")
    for names in ("v4", "v5") if name.startswith("lw") else ("v4",):
        folder = tmp_path / names
        save_transformers(ours.float(), folder, names=names)
        read, told = transformers.AutoModelForObjectDetection.from_pretrained(folder, output_loading_info=True)
        assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        images = smooth(MODELS[name][0], 5)
        check_close(read.double().eval()(images).logits, theirs.eval()(images).logits, "written again", rtol=1e-6)
        assert type(transformers.AutoImageProcessor.from_pretrained(folder)).__name__.startswith(("Def", "RfDetr"))
        back = detrkit.load(folder)
        assert back.config == ours.config
        assert all(torch.equal(value, ours.state_dict()[key]) for key, value in back.state_dict().items())


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("lw_detr_small_tiny", {}, "selection.*topk.k=20"),
        ("lw_detr_small", {"group_detr": 1}, "group_detr.*at least 2"),
        ("lw_detr_small", {"neck": "projector(norm='layer')"}, "neck.*projector"),
        ("lw_detr_small", {"short_side": 600, "long_side": 600}, "short_side.*multiple of 64"),
        ("lw_detr_small", {"positional": "sine"}, "positional"),
    ],
)
def test_what_folders_cannot_tell_is_refused(tmp_path, preset, changes, message):
    with torch.device("meta"):
        model = detrkit.build(preset, **changes)
    with pytest.raises(CheckpointError, match=message):
        save_transformers(model, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", ["lw", "lw, several scales"])
def test_same_losses_and_gradients_as_transformers_in_training(tmp_path, name):
    """Groups, layers, proposals; its matching is of float32 boxes."""
    theirs, ours = pair(name, 3, tmp_path)
    images, generator = smooth("LwDetr", 3), torch.Generator().manual_seed(4)
    boxes = [torch.rand(n, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.2 for n in (3, 1)]
    labels = [torch.tensor([0, 2, 1]), torch.tensor([1])]
    truth = [{"class_labels": k, "boxes": b} for k, b in zip(labels, boxes, strict=True)]
    expected = theirs.train()(images, labels=truth)
    targets = [{"labels": k, "boxes": b} for k, b in zip(labels, boxes, strict=True)]
    losses = SetCriterion.from_config(ours.config)(ours.train()(images, None, targets), targets)
    terms = {key: value for key, value in expected.loss_dict.items() if "cardinality" not in key}
    assert set(losses.terms) == set(terms)
    check_close(losses.terms, terms, "from transformers", rtol=1e-6)
    expected.loss.backward()
    losses.total.backward()
    for attribute in ("class_embed.weight", "bbox_embed.layers.0.weight"):
        check_close(
            ours.get_parameter(attribute).grad, theirs.get_parameter(attribute).grad, f"in {attribute}", rtol=1e-6
        )
    tables = torch.cat([group.content.weight.grad for group in ours.queries.groups])
    check_close(tables, theirs.model.query_feat.weight.grad, "in the tables of all groups", rtol=1e-6)
    first = theirs.get_parameter("model.backbone.backbone.embeddings.projection.weight").grad
    check_close(ours.backbone.patch_embed.weight.grad, first, "in the trunk", rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("group_detr", 4, "group_detr.*got 4; expected 3, which the weights show"),
        ("focal_alpha", 0.5, "focal_alpha.*0.5; expected 0.25"),
        ("backbone_config", {"model_type": "resnet"}, "backbone_config.*model_type lw_detr_vit"),
    ],
)
def test_words_that_are_not_ours_are_refused(tmp_path, field, value, sentence):
    pair("lw", 1, tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, field: value}))
    with pytest.raises(CheckpointError, match=sentence):
        detrkit.load(tmp_path)


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        "vit(width=16, depth=2, heads=2, patch=4, windows=2, windowed=(0,), taken=(1, 2))",
        "dinov2(width=16, depth=2, heads=2, patch=4, grid=3, windows=2, taken=(1, 2))",
    ],
)
@torch.no_grad()
def test_windowed_blocks_see_their_window_only(spec):
    backbone = REGISTRY.make("backbones", spec).double().eval()
    images = torch.randn(1, 3, 24, 32, dtype=torch.float64)
    changed = images.clone()
    changed[..., :12, :16] += 1
    moved = [(a - b).abs().amax(1)[0] > 1e-9 for a, b in zip(backbone(images), backbone(changed), strict=True)]
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[:3, :4] = True
    assert torch.equal(moved[0], inside)
    assert moved[1].all(), "the block after it sees the whole image"


@torch.no_grad()
def test_windows_are_those_of_the_image_unless_they_are_published_so():
    """Cells of a map that is no square change places where height and width are each other's; of a square none do."""
    settings = "width=16, depth=2, heads=2, patch=4, grid=3, windows=2, taken=(1,)"
    plain, swapped = (REGISTRY.make("backbones", f"dinov2({settings}{more})").eval() for more in ("", ", swapped=True"))
    swapped.load_state_dict(plain.state_dict())
    for size, same in (((24, 24), True), ((24, 32), False)):
        images = torch.randn(1, 3, *size)
        assert torch.allclose(plain(images)[0], swapped(images)[0], atol=1e-6) == same


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("vit(heads=5)", "vit: width=192 is not divisible by heads=5"),
        ("vit(taken=(3, 11))", r"vit: taken: got \(3, 11\); expected ascending numbers from 1 to depth=10"),
        ("vit(windowed=(10,))", r"vit: windowed: got \(10,\); expected numbers from 0 to depth - 1 = 9"),
        ("dinov2(taken=())", r"dinov2: taken: got \(\)"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(spec, sentence):
    with pytest.raises(ConfigError, match=sentence):
        detrkit.config("detr_tiny", backbone=spec)


def test_weights_of_the_trunk_are_loaded_in_the_names_of_their_authors(tmp_path):
    """As timm and facebookresearch write DINOv2, with or without the token for hidden patches."""
    settings = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "grid": 3, "windows": 2, "taken": (1,)}
    given = REGISTRY.make("backbones", "dinov2(width=16, depth=2, heads=2, patch=4, grid=3, windows=2, taken=(1,))")
    names = {
        key: key.replace("patch_embed", "patch_embed.proj").replace("mlp.linear", "mlp.fc")
        for key in given.state_dict()
    }
    for left_out in ("", "mask_token"):
        state = {names[key]: tensor for key, tensor in given.state_dict().items() if key != left_out}
        save_file(state, tmp_path / "dinov2.safetensors")
        taken = REGISTRY.get("backbones", "dinov2")(**settings, weights=tmp_path / "dinov2.safetensors")
        check_close(dict(taken.state_dict()), dict(given.state_dict()), "from the file", rtol=0)


# --- official files ---------------------------------------------------------------------------------------------------

OFFICIAL = {"lwdetr_small": "lw_detr_small", "rfdetr_base": "rf_detr_base"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_are_read_under_every_name_of_their_manifest(shared, tmp_path, name):
    """Each entry has its number, and is found in its place; the tables of queries are cut into groups."""
    lines = [line.split("\t") for line in (shared / "manifests" / f"{name}.txt").read_text().splitlines()]
    generator = torch.Generator().manual_seed(5)
    shapes = {
        entry: tuple(int(side) for side in shape.strip("()").split(",") if side.strip()) for entry, shape in lines
    }
    state = {entry: torch.randn(shape, generator=generator) for entry, shape in shapes.items()}
    state |= {entry: torch.tensor(7) for entry in state if entry.endswith("num_batches_tracked")}
    torch.save({"model": state}, tmp_path / "official.pth")
    model = detrkit.load(tmp_path / "official.pth")
    assert difference(model.config, detrkit.config(OFFICIAL[name])) == {}
    assert {entry.source for entry in model.loaded.only("unused")} <= {"_kp_active_mask"}
    assert torch.equal(model.queries.groups[2].content.weight, state["query_feat.weight"][600:900])
    assert torch.equal(model.queries.groups[2].offset, state["refpoint_embed.weight"][600:900])
    assert torch.equal(model.queries.groups[2].output.weight, state["transformer.enc_output.2.weight"])
    assert torch.equal(
        model.decoder.layers[1].cross_attn_residual.norm.bias, state["transformer.decoder.layers.1.norm2.bias"]
    )
