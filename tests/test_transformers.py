"""Folders of transformers: read and written, with its own classes as the judge."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import detrkit
from detrkit.checkpoints import load, save_transformers
from detrkit.errors import CheckpointError, DetrkitError
from detrkit.labels import COCO_RAW, LabelSpace

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

SMALL = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "encoder_attention_heads": 4, "decoder_attention_heads": 2, "num_queries": 6, "num_labels": 3,
}  # fmt: skip
TIMM18 = {"use_timm_backbone": True, "backbone": "resnet18"}
BASIC = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
MODELS = {
    "timm resnet18": ("Detr", TIMM18),
    "timm resnet50, dilated": ("Detr", {"dilation": True}),
    "timm resnet18, learned": ("Detr", {**TIMM18, "position_embedding_type": "learned", "activation_function": "gelu"}),
    "own resnet18": ("Detr", {"resnet": BASIC}),
    "own resnet50": ("Detr", {"resnet": {}}),
    "pre-norm": ("TableTransformer", TIMM18),
    "pre-norm, learned": ("TableTransformer", {**TIMM18, "position_embedding_type": "learned"}),
}
FLOAT32_POSITIONS = {"pre-norm"}  # this class computes the sine in float32


def of_transformers(name):
    """A model of transformers with random weights that hide no mistake."""
    kind, changes = MODELS[name]
    changes = dict(changes)
    if "resnet" in changes:
        settings = changes.pop("resnet")
        changes["backbone_config"] = transformers.ResNetConfig(out_features=["stage4"], **settings)
        changes["attn_implementation"] = {"": "sdpa", "backbone_config": "eager"}
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    return randomized(getattr(transformers, f"{kind}ForObjectDetection")(config)).eval()


def randomized(model):
    """Every tensor drawn, statistics of frozen norms too; scales such that nothing dies or saturates."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        if "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
            drawn = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif tensor.ndim == 1:
            drawn = 0.3 * drawn
        elif "embeddings" not in name:
            drawn = drawn * (2.0 / tensor[0].numel()) ** 0.5
        tensor.copy_(drawn)
    return model


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    """A model of transformers and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("model")
    model = of_transformers(request.param)
    model.save_pretrained(folder)
    return request.param, model, folder


def batch():
    """Two smooth images of different sizes, [2, 3, 150, 193] and its mask."""
    coarse = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images = F.interpolate(coarse, size=(150, 193), mode="bicubic")
    mask = torch.zeros(2, 150, 193, dtype=torch.bool)
    mask[1, 117:], mask[1, :, 101:] = True, True
    return images.masked_fill(mask[:, None], 0), mask


@torch.no_grad()
def answers(model):
    """Logits and boxes of a model of either library, computed in float64."""
    images, mask = batch()
    if isinstance(model, detrkit.model.Detector):
        out = model.double()(images, mask)
        model.float()
        return out.pred_logits, out.pred_boxes
    out = model.double()(pixel_values=images, pixel_mask=(~mask).long())
    model.float()
    return out.logits, out.pred_boxes


def difference(model, other):
    return max(float((a - b).abs().max()) for a, b in zip(answers(model), answers(other), strict=True))


# --- read -------------------------------------------------------------------------------------------------------------


def test_same_answers_as_transformers(case):
    name, theirs, folder = case
    ours = load(folder)
    logits, boxes = answers(theirs)
    assert min(logits.std(dim=1).mean(), boxes.std(dim=1).mean()) > 1e-3, "queries that agree would hide mistakes"
    assert difference(ours, theirs) < (1e-6 if name in FLOAT32_POSITIONS else 1e-11)


def test_report_names_every_entry(case):
    name, theirs, folder = case
    ours = load(folder)
    origin = "transformers_table" if name.startswith("pre-norm") else "transformers"
    assert (ours.loaded.origin, ours.training) == (origin, False)
    assert {entry.name for entry in ours.loaded.entries} == set(ours.state_dict())
    sources = [part for entry in ours.loaded.entries for part in entry.source.split(" + ")]
    assert sorted(sources) == sorted(load_file(folder / "model.safetensors"))
    assert len(sources) == len(theirs.state_dict())


def test_names_in_memory_are_read_as_well(case, tmp_path):
    """What ``model.state_dict()`` calls the entries, which ``save_pretrained`` of 5.23 does not write."""
    _, theirs, folder = case
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    assert_same_state(load(folder).state_dict(), load(tmp_path).state_dict())


# --- write ------------------------------------------------------------------------------------------------------------


def assert_same_state(state, other):
    assert set(state) == set(other)
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


def spellings(name):
    """All pairs of names and trunk; two of them for the large trunks, and never a dilated ResNet of transformers."""
    if "dilated" in name:
        return [("v4", "timm"), ("v5", "timm")]
    return [("v4", "timm"), ("v5", "resnet")] + ([] if "resnet50" in name else [("v5", "timm"), ("v4", "resnet")])


def test_written_it_gives_the_same_answers_there(case, tmp_path):
    name, theirs, folder = case
    ours, images = load(folder), answers(theirs)
    for names, trunk in spellings(name):
        save_transformers(ours, tmp_path, names=names, trunk=trunk)
        attention = {"": "sdpa", "backbone_config": "eager"} if "pre-norm" not in name else "eager"
        back, information = type(theirs).from_pretrained(
            tmp_path, output_loading_info=True, attn_implementation=attention
        )
        assert not any(information.values()), information
        found = answers(back.eval())
        assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(found, images, strict=True))
        again = load(tmp_path)
        assert (again.config, again.label_space) == (ours.config, ours.label_space)
        assert_same_state(ours.state_dict(), again.state_dict())


def test_written_by_default_it_is_what_transformers_writes(case, tmp_path):
    """The same names and bits as the folder that it came from."""
    name, _, folder = case
    trunk = "resnet" if name.startswith("own") else "timm"
    save_transformers(load(folder), tmp_path, trunk=trunk)
    assert_same_state(load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors"))
    written, own = (json.loads((place / "config.json").read_text()) for place in (tmp_path, folder))
    telling = {*SMALL, "model_type", "id2label", "label2id", "dropout", "dilation", "activation_function", "class_cost"}
    shared = (telling | {"auxiliary_loss", "position_embedding_type", "eos_coefficient", "architectures"}) & set(own)
    assert {field: written[field] for field in shared} == {field: own[field] for field in shared}


def test_names_in_memory_are_written_as_version_5_has_them(tmp_path):
    theirs = of_transformers("timm resnet18")
    theirs.save_pretrained(tmp_path)
    save_transformers(load(tmp_path), tmp_path / "v5", names="v5")
    assert_same_state(theirs.state_dict(), load_file(tmp_path / "v5" / "model.safetensors"))


def test_published_names_have_their_places(shared):
    """The manifest of version 5 with a ResNet-50, and ours, on both sides without remainder."""
    from detrkit.checkpoints.layouts.transformers import LAYOUT

    lines = (shared / "manifests" / "hf_v5_detr_resnet50.txt").read_text().splitlines()
    names = {line.split(" ", 1)[0] for line in lines if line}
    ours = detrkit.build("detr_r50").state_dict()
    assert {other for name in ours for other in LAYOUT.spellings["v5 timm"].theirs(name)} == names


@pytest.fixture(scope="module")
def small():
    return detrkit.build(
        "detr_r50", backbone="torchvision(model='resnet18', trainable_levels=3)", d_model=16, dim_feedforward=12,
        num_queries=4, enc_layers=1, dec_layers=1, short_side=96, long_side=128, label_space=LabelSpace(("cat", "dog")),
    ).eval()  # fmt: skip


def changed(model, **changes):
    return detrkit.build(model.config, **changes)


@pytest.mark.fast
def test_image_processor_of_transformers_reads_the_sizes(small, tmp_path):
    save_transformers(small, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (96, 128)
    assert load(tmp_path).config == small.config


@pytest.mark.fast
def test_label_space_and_what_transformers_has_no_field_for_come_back(small, tmp_path):
    model = detrkit.build(
        small.config.replace(aux_loss=False, cls_loss_coef=2.0), label_space=LabelSpace(("cat", "dog"), (3, 17))
    )
    save_transformers(model, tmp_path)
    again = load(tmp_path)
    assert (again.config, again.label_space) == (model.config, model.label_space)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "field", "way"),
    [
        ({"backbone": "tiny(width=8)"}, "backbone", {}),
        ({"backbone": "torchvision(model='resnet50', dilation=True)"}, "backbone", {"trunk": "resnet"}),
        ({"positional": "learned(size=20)"}, "positional", {}),
        ({"decoder_self_attention": "sdpa(heads=4)"}, "decoder_cross_attention", {}),
        ({"set_cost_bbox": 2.5}, "set_cost_bbox", {}),
        ({"queries": "content"}, "queries", {}),
        ({"bbox_layers": 1}, "bbox_layers", {}),
        ({}, "names", {"names": "v3"}),
        ({}, "trunk", {"trunk": "resnext"}),
    ],
)  # fmt: skip
def test_what_transformers_cannot_express_is_refused_by_field(small, tmp_path, changes, field, way):
    with pytest.raises(CheckpointError) as caught:
        save_transformers(changed(small, **changes), tmp_path / "a", **way)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


# --- other ways to keep the same --------------------------------------------------------------------------------------


@pytest.fixture
def folder(small, tmp_path):
    save_transformers(small, tmp_path / "a")
    return tmp_path / "a"


def edit(folder, file="config.json", **fields):
    content = json.loads((folder / file).read_text())
    content.update(fields)
    (folder / file).write_text(json.dumps(content))


def shard(folder, **places):
    """Split the weights into two files and an index; `places` changes what the index says."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {}
    for number, names in enumerate((sorted(state)[::2], sorted(state)[1::2])):
        save_file({name: state[name] for name in names}, folder / f"{number}.safetensors", {"format": "pt"})
        index |= dict.fromkeys(names, f"{number}.safetensors")
    content = {"metadata": {}, "weight_map": {**index, **places}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.fast
def test_shards_pickles_and_the_file_itself_give_the_same(small, folder):
    assert_same_state(small.state_dict(), load(folder / "model.safetensors").state_dict())
    state = load_file(folder / "model.safetensors")
    shard(folder)
    assert_same_state(small.state_dict(), load(folder).state_dict())
    (folder / "model.safetensors.index.json").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert_same_state(small.state_dict(), load(folder).state_dict())


@pytest.mark.fast
def test_segmentation_model_gives_its_detector(small, folder):
    state = {f"detr.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    state |= {"mask_head.lay1.weight": torch.zeros(2), "bbox_attention.q_linear.weight": torch.zeros(2)}
    save_file(state, folder / "model.safetensors")
    model = load(folder)
    assert_same_state(small.state_dict(), model.state_dict())
    assert len(model.loaded.only("unused")) == 2


@pytest.mark.fast
def test_names_of_coco_are_coco(small, tmp_path):
    names = [name if not name.startswith("unused") else "N/A" for name in COCO_RAW.names]
    save_transformers(changed(small, num_classes=91), tmp_path)
    edit(tmp_path, id2label=dict(enumerate(names)))
    assert load(tmp_path).label_space == COCO_RAW


@pytest.mark.fast
@pytest.mark.parametrize(
    "fields", [{"size": 96, "max_size": 128}, {"size": {"shortest_edge": 96, "longest_edge": 128}, "do_pad": None}]
)
def test_sizes_of_images_in_either_form(small, folder, fields):
    edit(folder, "preprocessor_config.json", **fields)
    assert load(folder).config == small.config
    (folder / "preprocessor_config.json").unlink()
    assert load(folder).config == small.config.replace(short_side=800, long_side=1333)


@pytest.mark.fast
def test_dropouts_that_matter_in_training_only_are_noted(folder):
    edit(folder, attention_dropout=0.3, encoder_layerdrop=0.0, activation_dropout=0.1)
    assert [entry.source for entry in load(folder).loaded.only("unused")] == ["config.json: attention_dropout=0.3"]


NESTED = {"model_type": "timm_backbone", "backbone": "resnet18"}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "deter"}, ["no layout for this model type", "did you mean 'detr'"]),
        ({"model_type": None}, ["model_type"]),
        ({"model_type": "table-transformer"}, ["missing", "model.encoder.layernorm"]),
        ({"auxiliary_loss": True}, ["auxiliary_loss", "another network", "false"]),
        ({"d_model": 32}, ["d_model", "32", "16, which the weights show"]),
        ({"encoder_layers": 10**9}, ["encoder_layers", "1, which the weights show"]),
        ({"decoder_ffn_dim": 2048}, ["decoder_ffn_dim", "12"]),
        ({"num_queries": "many"}, ["num_queries", "'many'", "4"]),
        ({"encoder_attention_heads": 3}, ["heads=3"]),
        ({"decoder_attention_heads": [8]}, ["decoder_cross_attention", "heads", "[8]"]),
        ({"dropout": "0.1"}, ["dropout", "'0.1'"]),
        ({"dropout": None}, ["dropout"]),
        ({"activation_function": "gelu_new"}, ["activation_function", "relu or gelu or silu"]),
        ({"activation_function": []}, ["activation_function"]),
        ({"position_embedding_type": "learned"}, ["position_embedding_type", "sine, which the weights show"]),
        ({"position_embedding_type": "rotary"}, ["position_embedding_type", "sine or learned"]),
        ({"num_channels": 4}, ["num_channels", "4"]),
        ({"backbone": "resnet50"}, ["backbone", "resnet18, which the weights show"]),
        ({"backbone": 5}, ["backbone", "resnet18"]),
        ({"backbone_kwargs": {"act_layer": "gelu"}}, ["backbone_kwargs", "act_layer"]),
        ({"backbone_config": {"model_type": "swin"}}, ["backbone_config", "swin"]),
        ({"backbone_config": []}, ["backbone_config"]),
        ({"backbone_config": {"model_type": "resnet", "layer_type": "bottleneck"}}, ["layer_type", "basic"]),
        ({"backbone_config": {**NESTED, "output_stride": 8}}, ["output_stride"]),
        ({"backbone_config": {**NESTED, "out_indices": [3]}}, ["out_indices"]),
        ({"id2label": {"0": "cat"}}, ["id2label", "0..1"]),
        ({"id2label": {"a": "cat", "b": "dog"}}, ["id2label", "0..1"]),
        ({"id2label": {"0": "cat", "1": "cat"}}, ["id2label", "each name once"]),
        ({"id2label": {"0": "cat", "1": 7}}, ["id2label", "names"]),
        ({"id2label": ["cat", "dog"]}, ["id2label", "list"]),
        ({"detrkit_only": {"label_ids": "x"}}, ["detrkit_only"]),
        ({"detrkit_only": {"label_ids": [4, 4]}}, ["unique"]),
        ({"detrkit_only": 3}, ["detrkit_only"]),
    ],
)  # fmt: skip
def test_fields_that_we_cannot_express_are_refused_in_one_line(folder, fields, words):
    edit(folder, **fields)
    assert_refused(folder, words)


def assert_refused(folder, words):
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": {"height": 640, "width": 640}}, ["size", "shortest_edge and longest_edge"]),
        ({"size": {"shortest_edge": "x", "longest_edge": 3}}, ["short_side"]),
        ({"image_mean": [0.5, 0.5, 0.5]}, ["image_mean", "0.485"]),
        ({"image_std": 3}, ["image_std"]),
        ({"rescale_factor": 10**400}, ["rescale_factor"]),
        ({"do_normalize": False}, ["do_normalize"]),
        ({"resample": 3}, ["resample"]),
    ],
)
def test_other_preprocessing_is_refused_in_one_line(folder, fields, words):
    edit(folder, "preprocessor_config.json", **fields)
    assert_refused(folder, words)


PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20


@pytest.mark.fast
@pytest.mark.parametrize(
    "content", [PAGE, b"", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"model_type": "detr"']
)
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_json_that_is_none_is_one_line(folder, file, content):
    (folder / file).write_bytes(content)
    assert_refused(folder, [file])


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PAGE, ["is no JSON"]),
        (b"[]", ["is no table"]),
        (b'{"weight_map": 3}', ["weight_map"]),
        (b'{"weight_map": {"a": 3}}', ["weight_map"]),
        (b'{"weight_map": {"a": "gone.safetensors"}}', ["is missing", "gone.safetensors"]),
        (b'{"weight_map": {"a": "../0.safetensors"}}', ["elsewhere", "../0.safetensors"]),
        (b'{"weight_map": {"a": "/etc/passwd"}}', ["elsewhere"]),
        (b'{"weight_map": {"a": ".."}}', ["elsewhere"]),
        (b'{"weight_map": {"a": "config.json"}}', ["holds no state dict", "cannot be read"]),
        (b'{"weight_map": {"a": "0.safetensors"}}', ["lacks a tensor", "a"]),
        (b'{"weight_map": {}}', ["missing"]),
    ],
)
def test_bad_indexes_are_one_line(folder, content, words):
    shard(folder)
    (folder / "model.safetensors.index.json").write_bytes(content)
    assert_refused(folder, words[-1:])


@pytest.mark.fast
def test_damaged_weights_are_one_line(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content in (b"", PAGE, whole[:7], whole[:3000], whole[: len(whole) // 2], whole[:-1], whole + b"\0"):
        file.write_bytes(content)
        assert_refused(folder, ["not safetensors, or truncated"])
    file.unlink()
    assert_refused(folder, ["holds no checkpoint"])
    (folder / "pytorch_model.bin").write_bytes(PAGE)
    assert_refused(folder, ["cannot be read"])
    (folder / "config.json").unlink()
    assert_refused(folder, ["config.json: is missing"])


@pytest.mark.fast
def test_entries_that_do_not_fit_are_one_line(folder):
    state = load_file(folder / "model.safetensors")
    query, key = (f"model.encoder.layers.0.self_attn.{part}_proj.weight" for part in "qk")
    for change, words in [
        ({query: None}, ["an entry is missing", query]),
        ({query: torch.zeros(16, 8)}, ["parts of one tensor", query, key]),
        ({"model.extra": torch.zeros(1)}, ["an entry is unknown", "model.extra"]),
        ({"bbox_predictor.layers.2.bias": torch.zeros(5)}, ["wrong shape", "layers.2.bias", "(5,)", "(4,)"]),
    ]:  # fmt: skip
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        save_file(changed, folder / "model.safetensors")
        assert_refused(folder, words)


def sentence_of(folder):
    """What loading says against a folder; empty where it loads."""
    try:
        load(folder)
    except DetrkitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", [None, "x", [1], {"a": None}], ids=repr)
def test_whatever_stands_in_a_field_is_at_most_one_line(folder, value):
    whole = json.loads((folder / "config.json").read_text())
    for field in set(whole) - {"architectures", "is_encoder_decoder", "label2id", "use_pretrained_backbone"}:
        edit(folder, **{**whole, field: value})
        assert "\n" not in sentence_of(folder)
