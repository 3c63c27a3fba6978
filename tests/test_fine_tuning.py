"""Starting from another detector: rows by class name, first or repeated queries, the trunk as a whole or not at all."""

import pytest
import torch
from PIL import Image

import detrkit
from detrkit.config import TrainConfig
from detrkit.errors import CheckpointError
from detrkit.labels import COCO_RAW, LabelSpace
from detrkit.testing.model import SMALL
from detrkit.training import loop
from detrkit.training.announcement import frozen_at_random

pytestmark = pytest.mark.fast

PETS = LabelSpace(("dog", "axolotl", "cat"), (5, 7, 9))


def small(seed=0, **changes):
    """A detector of its own random weights."""
    torch.manual_seed(seed)
    return detrkit.build("detr_tiny", **{**SMALL, **changes})


def entry(model, name):
    (found,) = (entry for entry in model.loaded.entries if entry.name == name)
    return found


def test_class_rows_are_carried_over_by_name():
    donor = small(label_space=COCO_RAW, num_classes=91)
    fresh, model = small(1, label_space=PETS, num_classes=3), small(1, label_space=PETS, num_classes=3, init_from=donor)
    head, old = model.class_embed, donor.class_embed
    assert (COCO_RAW.names[18], COCO_RAW.names[17]) == ("dog", "cat")
    for row, source in ((0, 18), (2, 17), (3, 91)):  # the last row of each is no-object
        assert torch.equal(head.weight[row], old.weight[source])
        assert head.bias[row] == old.bias[source]
    assert torch.equal(head.weight[1], fresh.class_embed.weight[1])
    assert entry(model, "class_embed.weight").action == "sliced"
    assert "2 of 3 classes by name; afresh: axolotl" in str(model.loaded)
    others = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("class_embed")}
    assert all(torch.equal(tensor, donor.state_dict()[name]) for name, tensor in others.items())


@pytest.mark.parametrize(("number", "rows"), [(4, [0, 1, 2, 3]), (14, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1])])
@pytest.mark.parametrize("queries", ["positions", "content"])
def test_queries_are_the_first_or_repeated_in_turn(number, rows, queries):
    donor = small(num_queries=6, queries=queries)
    model = small(1, num_queries=number, queries=queries, init_from=donor)
    (old,), (new,) = donor.queries.parameters(), model.queries.parameters()
    assert torch.equal(new, old[rows])
    assert entry(model, f"queries.{queries}.weight").action == "sliced"


@pytest.mark.parametrize("attention", ["per_head", "torch"])
def test_weights_move_between_attentions(attention):
    donor = small()
    names = ("encoder_attention", "decoder_self_attention", "decoder_cross_attention")
    model = small(1, **dict.fromkeys(names, attention), init_from=donor)
    images = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        expected, found = donor.eval()(images), model.eval()(images)
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)
    assert model.loaded.counts == {"loaded": len(model.state_dict())}


def test_another_trunk_is_left_out_whole():
    donor = small(backbone="tiny(width=8, depth=1)")
    model = small(1, backbone="tiny(width=8, depth=2)", init_from=donor)
    fresh = small(1, backbone="tiny(width=8, depth=2)")
    for name, tensor in model.state_dict().items():
        expected = fresh if name.startswith(("backbone.", "neck.")) else donor
        assert torch.equal(tensor, expected.state_dict()[name]), name
    text = str(model.loaded)
    assert "re-initialised  backbone.*" in text
    assert "other backbone: tiny(width=8, depth=1)" in text
    unused = {entry.source for entry in model.loaded.only("unused")}
    assert unused == {name for name in donor.state_dict() if name.startswith(("backbone.", "neck."))}
    assert len(text.splitlines()) < 10, "groups are named, not every tensor"
    assert len(model.loaded.table().splitlines()) == len(model.loaded.entries)


def test_every_tensor_of_both_is_in_the_report():
    donor, model = small(dec_layers=3, positional="learned"), small(1, d_model=16)
    report = detrkit.checkpoints.initialize_from(model, donor)
    assert {e.name for e in report.entries if e.name} == set(model.state_dict())
    assert {e.source for e in report.entries if e.source} == set(donor.state_dict())
    assert entry(model, "class_embed.weight").note == "(5, 32) in the source, here (5, 16)"


def test_a_change_of_meaning_is_said():
    model = small(1, encoder_attention="sdpa(heads=2)", activation="gelu", init_from=small())
    assert set(model.loaded.remarks) == {
        "encoder_attention was sdpa in the source, here sdpa(heads=2)",
        "activation was relu in the source, here gelu",
    }
    assert all(remark in str(model.loaded) for remark in model.loaded.remarks)


def test_nothing_that_fits_is_refused():
    with pytest.raises(CheckpointError, match="no matrix of it fits"):
        small(
            1, backbone="tiny(width=16)", d_model=16, dim_feedforward=8, num_queries=4, init_from=small(pre_norm=False)
        )


def test_training_starts_from_a_run(tmp_path):
    config = small().config
    train = TrainConfig(data="toy(length=4, size=32)", steps=1, eval_every=0, device="cpu", lr=0.0, lr_backbone=0.0)
    first = loop.train(config, train, tmp_path / "first")
    second = train.replace(seed=3, init_from=str(first.folder))
    loop.check(config, second)
    run = loop.train(config, second, tmp_path / "second")
    old, new = (detrkit.load(r.folder).state_dict() for r in (first, run))
    assert all(torch.equal(tensor, old[name]) for name, tensor in new.items())
    assert (run.folder / "init_from.txt").read_text().count("\n") > len(new)
    with pytest.raises(CheckpointError, match="no such run"):
        loop.check(config, train.replace(init_from=str(tmp_path / "nowhere")))


# --- folders to publish -----------------------------------------------------------------------------------------------


def test_a_published_folder_gives_the_same_detector(tmp_path):
    model = small(label_space=PETS, num_classes=3)
    model.save_pretrained(tmp_path / "pets")
    assert sorted(path.name for path in (tmp_path / "pets").iterdir()) == ["config.json", "model.safetensors"]
    image = Image.new("RGB", (50, 40), (200, 30, 10))
    (expected,) = model.eval().predict([image], threshold=0.0)
    for again in (
        detrkit.Detector.from_pretrained(tmp_path / "pets"),
        detrkit.load(tmp_path / "pets"),
        detrkit.load(tmp_path / "pets" / "model.safetensors"),
    ):
        assert (again.config, again.label_space) == (model.config, PETS)
        assert again.predict([image], threshold=0.0)[0].to_coco(1) == expected.to_coco(1)
        assert again.loaded.counts == {"loaded": len(model.state_dict())}


def test_a_folder_of_two_saves_is_refused(tmp_path):
    small(0).save_pretrained(tmp_path / "a")
    small(1).save_pretrained(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"config.json.*another save"):
        detrkit.load(tmp_path / "a")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "no config", "html", "list", "empty", "fields"])
def test_damaged_folders_are_refused_in_one_line(tmp_path, damage):
    small().save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    content = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "cut":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    else:
        text = {
            "html": "<html>",
            "list": "[1]",
            "empty": "",
            "fields": config.read_text().replace("d_model", "d_mdoel"),
        }
        config.write_text(text[damage])
    for read in (detrkit.load, detrkit.Detector.from_pretrained):
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


# --- loading with another configuration -------------------------------------------------------------------------------


def test_loaded_with_changes_on_which_no_tensor_depends(tmp_path):
    model = small().eval()
    model.save_pretrained(tmp_path)
    changed = detrkit.load(tmp_path, padding_exact=True, encoder_attention="per_head", selection="topk(k=3)")
    assert changed.config == model.config.replace(
        padding_exact=True, encoder_attention="per_head", selection="topk(k=3)"
    )
    assert changed.exact_padding is not None
    assert not changed.training
    images = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.allclose(changed(images).logits, model(images).logits, atol=1e-5)
    assert len(changed.predict([Image.new("RGB", (50, 40))], threshold=0.0)[0]) == 3
    assert changed.loaded.counts == {"loaded": len(model.state_dict())}


@pytest.mark.parametrize("changes", [{"num_queries": 3}, {"dec_layers": 1}, {"backbone": "tiny(width=16)"}])
def test_changes_that_cut_weights_are_refused(tmp_path, changes):
    small().save_pretrained(tmp_path)
    (name,) = changes
    with pytest.raises(CheckpointError, match=f"do not fit with these changes.*{name}") as caught:
        detrkit.load(tmp_path, **changes)
    assert "\n" not in str(caught.value)


BASIC = "torchvision(model='shufflenet_v2_x0_5')"
LEARNING = "torchvision(model='shufflenet_v2_x0_5', norm='batch', trainable_levels={})"


@pytest.mark.parametrize(
    ("preset", "backbone", "warned"),
    [
        ("detr_tiny", BASIC, True),  # its norms are frozen
        ("detr_tiny", LEARNING.format(1), True),
        ("detr_tiny", LEARNING.format("none"), False),
        ("detr_tiny", "tiny", False),
        ("rf_detr_tiny", None, False),  # its mask token is no choice, and nothing reads it
    ],
)
def test_a_trunk_that_is_frozen_at_random_is_told(preset, backbone, warned):
    given = {} if backbone is None else {"backbone": backbone}
    assert frozen_at_random(detrkit.build(preset, **given)) == warned


def test_a_trunk_of_another_detector_is_not_random():
    donor = detrkit.build("detr_tiny", backbone=BASIC)
    assert not frozen_at_random(detrkit.build("detr_tiny", backbone=BASIC, init_from=donor))
