"""The published DETR against independent judges: transformers' implementation, and golden files of the official one.

Models are filled with random weights that hide nothing (default initialisation is nearly blind to mistakes) and look at
smooth images of different sizes, padded, no side a multiple of 32.
"""

import re

import pytest
import torch
from parity import FLOAT32, FLOAT64, RELATIVE, check_apart, default_dtype, draw_scene, draw_truth, randomize_

import detrkit
from detrkit.checkpoints.layouts.official import LAYOUT
from detrkit.criterion import SetCriterion
from detrkit.model import DetectorOutput
from detrkit.targets import check_targets
from detrkit.testing.law import seeded_draw
from detrkit.testing.model import ATTENTIONS, charge, same_function
from detrkit.testing.tensors import check_close, draw_generator

# our entry -> theirs; a packed projection becomes three
RENAMED = (
    (r"^backbone\.body\.", "model.backbone.model."),
    (r"^neck\.projection\.", "model.input_projection."),
    (r"^queries\.positions\.", "model.query_position_embeddings."),
    (r"^positional\.row_embed\.", "model.position_embedding.row_embeddings."),
    (r"^positional\.col_embed\.", "model.position_embedding.column_embeddings."),
    (r"^(encoder|decoder)\.layers\.", r"model.\1.layers."),
    (r"^decoder\.norm\.", "model.decoder.layernorm."),
    (r"^class_embed\.", "class_labels_classifier."),
    (r"^bbox_embed\.", "bbox_predictor."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.cross_attn_residual\.norm\.", ".encoder_attn_layer_norm."),
    (r"\.self_attn_residual\.norm\.", ".self_attn_layer_norm."),
    (r"\.ffn_residual\.norm\.", ".final_layer_norm."),
    (r"\.ffn\.linear", ".mlp.fc"),
    (r"\.out_proj\.", ".o_proj."),
)


def in_their_names(entries):
    found = {}
    for name, tensor in entries.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        parts = zip("qkv", tensor.chunk(3), strict=True) if ".in_proj_" in name else [("", tensor)]
        found.update({name.replace("in_proj_", f"{part}_proj."): piece for part, piece in parts})
    return found


# ---- the model against transformers


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers", reason="transformers is not installed")


def make_theirs(transformers, config, trunk, **options):
    """Their model of the same sizes; with `auxiliary_loss=True` theirs would be another network."""
    theirs = transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            backbone=trunk,
            d_model=config.d_model,
            num_queries=config.num_queries,
            num_labels=config.num_classes,
            encoder_layers=config.enc_layers,
            decoder_layers=config.dec_layers,
            encoder_ffn_dim=config.dim_feedforward,
            decoder_ffn_dim=config.dim_feedforward,
            position_embedding_type=config.positional,
            dropout=0.0,
            auxiliary_loss=False,
            **options,
        )
    )
    return theirs.double().eval()


def look(theirs, images, mask):
    """What they say after every decoder layer: their norm and heads on the states they tell, the last one normed."""
    outputs = theirs(images, (~mask).long(), output_hidden_states=True)
    *earlier, last = outputs.decoder_hidden_states[1:]
    states = torch.stack([*map(theirs.model.decoder.layernorm, earlier), last])
    every = DetectorOutput(theirs.class_labels_classifier(states), theirs.bbox_predictor(states).sigmoid())
    check_close((every.pred_logits, every.pred_boxes), (outputs.logits, outputs.pred_boxes), "in their last layer")
    return every


def make_pair(transformers, ours, trunk, generator, **options):
    """Our model and theirs with the same random weights."""
    randomize_(ours.double().eval(), generator)
    theirs = make_theirs(transformers, ours.config, trunk, **options)
    theirs.load_state_dict(in_their_names(ours.state_dict()))
    return ours, theirs


@torch.no_grad()
def check_float64(ours, theirs, scene):
    """All decoder layers, on a scene in which nothing hides; gives ours."""
    expected = look(theirs, *scene)
    assert expected.boxes.std(2).mean() > 0.015, "all queries say one box"
    assert (expected.boxes[:, 0] - expected.boxes[:, 1]).abs().mean() > 0.015, "all images look the same"
    found = ours(*scene)
    check_apart(found, expected, FLOAT64, "in float64")
    return found


@torch.no_grad()
def check_float32(ours, theirs, scene, exact):
    """As check_float64, against their float32 and against our float64."""
    images, mask = scene[0].float(), scene[1]
    found = ours.float()(images, mask)
    check_apart(found, exact, FLOAT32, "in float32 from float64")
    check_apart(found, look(theirs.float(), images, mask), FLOAT32, "in float32")


PUBLISHED = [
    ("detr_r50", "resnet50", 0, {}),
    ("detr_r50_dc5", "resnet50", 1, {"dilation": True}),
    pytest.param("detr_r101", "resnet101", 2, {}, marks=pytest.mark.nightly),
    pytest.param("detr_r101_dc5", "resnet101", 3, {"dilation": True}, marks=pytest.mark.nightly),
    *(pytest.param("detr_r50", "resnet50", seed, {}, marks=pytest.mark.nightly) for seed in range(4, 9)),
]


@pytest.mark.parametrize(("name", "trunk", "seed", "options"), PUBLISHED)
def test_a_published_model_equals_transformers(transformers, name, trunk, seed, options):
    generator = torch.Generator().manual_seed(seed)
    pair = make_pair(transformers, detrkit.build(name), trunk, generator, **options)
    scene = draw_scene(generator, (203, 150), (139, 210))
    check_float32(*pair, scene, exact=check_float64(*pair, scene))


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(6, 40))])
def test_a_small_model_equals_transformers(transformers, seed):
    """Other trunks, sizes, positions; a dilated trunk too."""
    draw = seeded_draw(seed)
    generator, heads, dilation = draw_generator(draw), 2 ** draw(0, 3), bool(seed % 2)
    trunk = "resnet26" if dilation else ("resnet18", "resnet34")[draw(0, 1)]
    ours = detrkit.build(
        "detr_r50",
        backbone=f"timm(model='{trunk}', dilation=True)" if dilation else f"torchvision(model='{trunk}')",
        positional=("sine", "learned")[draw(0, 1)],
        d_model=8 * draw(2, 6),
        num_queries=draw(5, 30),
        num_classes=draw(1, 20),
        enc_layers=draw(0, 3),
        dec_layers=draw(1, 4),
        dim_feedforward=draw(8, 100),
        short_side=480,
        long_side=640,
        **dict.fromkeys(ATTENTIONS, f"sdpa(heads={heads})"),
    )
    options = {"encoder_attention_heads": heads, "decoder_attention_heads": heads, "dilation": dilation}
    pair = make_pair(transformers, ours, trunk, generator, **options)
    sizes = [(32 * draw(1, 4) + draw(1, 31), 32 * draw(1, 4) + draw(1, 31)) for _ in range(2)]
    check_float64(*pair, draw_scene(generator, *sizes))


# ---- the published models against the golden files, and against themselves


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_dc5", "detr_r101"])
@torch.no_grad()
def test_equals_the_golden_outputs_in_float32(golden, name):
    content, fill, state, (images, mask) = golden(name)
    model = detrkit.build(name).eval()
    model.load_state_dict({LAYOUT.spellings[""].ours(entry): tensor for entry, tensor in state.items()})
    outputs = dict(zip(("pred_logits", "pred_boxes"), model(images.float(), mask).pair, strict=True))
    found = fill.compare(content, outputs, verbose=False)
    assert found["ok"], found
    samples = [content["outputs"][key] for key in outputs]
    values = [part.flatten()[known["index"]] for part, known in zip(outputs.values(), samples, strict=True)]
    exact = [torch.tensor(known["value"], dtype=torch.float64) for known in samples]
    check_apart(values, exact, FLOAT32, "in float32 from the file")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)])
@torch.no_grad()
def test_dense_attentions_say_the_same_in_the_published_net(dtype, bound):
    generator = torch.Generator().manual_seed(0)
    model = randomize_(detrkit.build("detr_r50").eval(), generator).to(dtype)
    images, mask = draw_scene(generator, (203, 150), (139, 210))
    expected = {}
    assert {"matrix", "per_head", "einops", "sdpa", "torch"} <= set(same_function())
    for name in same_function():
        other = detrkit.build("detr_r50", backbone="tiny", **dict.fromkeys(ATTENTIONS, name)).to(dtype).eval()
        for stack in ("encoder", "decoder"):
            getattr(other, stack).load_state_dict(getattr(model, stack).state_dict())
        model.encoder, model.decoder = other.encoder, other.decoder
        expected[name] = model(images.to(dtype), mask)
    for name, found in expected.items():
        check_apart(found, expected["torch"], bound, f"with {name} for torch")


# ---- the criterion and the matcher against transformers


def draw_case(seed):
    """Outputs of several layers and targets; among them empty images, empty batches, and more objects than queries."""
    draw = seeded_draw(seed)
    generator, layers, images = draw_generator(draw), draw(1, 6), draw(1, 4)
    queries, classes = (100, 91) if seed % 20 == 19 else (draw(1, 30), draw(1, 20))
    kinds = {0: (0, 0), 1: (queries, queries + 9), 2: (0, 1)}
    counts = [draw(*kinds.get(seed % 8, (0, 12))) for _ in range(images)]
    logits = 2 * torch.randn(layers, images, queries, classes + 1, generator=generator, dtype=torch.float64)
    boxes = 0.02 + 0.9 * torch.rand(layers, images, queries, 4, generator=generator, dtype=torch.float64)
    return classes, DetectorOutput(logits, boxes), draw_truth(generator, counts, classes)


@pytest.fixture
def judge(transformers):
    """Their total, terms by name, and pairs of each layer."""
    library = pytest.importorskip("transformers.loss.loss_for_object_detection")

    def charge_theirs(classes, outputs, targets):
        dtype, layers = outputs.logits.dtype, len(outputs.logits)
        config = transformers.DetrConfig(num_labels=classes, decoder_layers=layers, auxiliary_loss=True)
        targets = [{"class_labels": target["labels"], "boxes": target["boxes"].to(dtype)} for target in targets]
        with default_dtype(dtype):  # their class weights have it
            total, terms, _ = library.ForObjectDetectionLoss(
                outputs.pred_logits, targets, "cpu", outputs.pred_boxes, config, *outputs.pair
            )
        matcher = library.HungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
        pairs = [matcher({"logits": x, "pred_boxes": y}, targets) for x, y in zip(*outputs.pair, strict=True)]
        return total, {name: term.item() for name, term in terms.items()}, pairs

    return charge_theirs


def class_error(logits, pairs, targets):
    """Percent of the matched queries of the last layer whose best class is wrong, as the official code logs it."""
    right = [
        logits[image, queries].argmax(-1) == targets[image]["labels"][objects]
        for image, (queries, objects) in enumerate(pairs)
    ]
    right = torch.cat(right)
    return 100 - 100 * float(right.double().mean()) if len(right) else 100.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_criterion_and_matcher_equal_transformers(judge, dtype):
    """Pairs, terms, metrics, total, and the gradient of each layer, on 200 cases."""
    config = detrkit.config("detr_r50")
    for seed in range(200):
        classes, outputs, targets = draw_case(seed)
        outputs = outputs.mapped(lambda part: part.to(dtype).requires_grad_())
        criterion = SetCriterion.from_config(config.replace(num_classes=classes))
        total, terms, pairs = judge(classes, outputs, targets)
        losses = criterion(outputs, targets)

        truth = check_targets(targets, classes, like=outputs.boxes)
        assigned = criterion.matching(*outputs.pair, truth)
        matched = [[(a.rows.tolist(), a.cols.tolist()) for a in layer] for layer in assigned]
        assert matched == [[(q.tolist(), t.tolist()) for q, t in layer] for layer in pairs], f"matching of case {seed}"

        numbers = {
            name: value.item() for name, value in {"total": losses.total, **losses.terms, **losses.metrics}.items()
        }
        wanted = {"total": total.item(), "class_error": class_error(outputs.pred_logits, pairs[-1], targets), **terms}
        assert numbers == pytest.approx(wanted, rel=RELATIVE), f"losses of case {seed}"

        ours, theirs = (torch.autograd.grad(loss, outputs.pair) for loss in (losses.total, total))
        for name, found, expected in zip(("logits", "boxes"), ours, theirs, strict=True):
            for layer, pair in enumerate(zip(found, expected, strict=True)):
                check_close(*pair, f"in the gradient by {name} of layer {layer} of case {seed}", rtol=RELATIVE)


def test_gradients_of_the_published_model_equal_transformers(transformers, judge):
    """From the images through every loss to every parameter, in training without dropout."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = make_pair(transformers, detrkit.build("detr_r50", dropout=0.0), "resnet50", generator)
    scene, targets = draw_scene(generator, (117, 70), (75, 101)), draw_truth(generator, (7, 3), 91)
    charge(ours.train(), *scene, targets).total.backward()
    judge(91, look(theirs.train(), *scene), targets)[0].backward()

    trained = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    found, expected = in_their_names(trained), {name: p.grad for name, p in theirs.named_parameters()}
    untrained = expected.keys() - found.keys()
    assert all(re.match(r"model\.backbone\.model\.(conv1|layer1)\.", name) for name in untrained), untrained
    negligible = 1e-8 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in found.items():
        apart, size = float((gradient - expected[name]).abs().max()), float(expected[name].abs().max())
        assert apart <= RELATIVE * max(size, negligible), f"{name} differs by {apart:.3g} of {size:.3g}"
