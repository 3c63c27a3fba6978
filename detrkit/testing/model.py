"""The laws of a whole detector, on one that is built in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.config import DetectorConfig
from detrkit.criterion import Losses, SetCriterion
from detrkit.explanation.sight import sight_of
from detrkit.explanation.watching import watching_model
from detrkit.model import Detector, build, mask_at
from detrkit.registry import REGISTRY
from detrkit.testing.attention import REFERENCE
from detrkit.testing.criterion import Target, draw_target
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.tensors import check_close, check_finite, draw_normal, draw_order

SMALL = {
    "backbone": "tiny(width=8)",
    "d_model": 32,
    "num_queries": 6,
    "num_classes": 4,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 32,
}
ATTENTIONS = ("encoder_attention", "decoder_self_attention", "decoder_cross_attention")


class ModelMaker:
    """A `Make` of tiny detectors in float64: options are fields of `DetectorConfig`."""

    component = Detector

    def __call__(self, **options: Any) -> Detector:
        """Preset detr_tiny, smaller still, from torch's current seed."""
        return build("detr_tiny", **{**SMALL, **options}).double()


make_model = ModelMaker()


@law("model")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Images of equal size are detected in a batch as they are one by one."""
    model = draw_model(make, draw).eval()
    images, mask = draw_images(draw, batch=draw(2, 3))
    alone = [model(images[i : i + 1], mask[i : i + 1]) for i in range(len(images))]
    logits, boxes = (torch.cat(parts, 1) for parts in zip(*(output.pair for output in alone), strict=True))
    check_close((logits, boxes), model(images, mask).pair, "image by image", rtol=1e-9)


@law("model")
def padded_cells_have_no_influence(make: Make, draw: Draw) -> None:
    """What the backbone says about padding reaches neither encoder nor decoder, not even as NaN."""
    model = draw_model(make, draw).eval()
    images, mask = draw_images(draw)
    expected = model(images, mask)
    filling = (float(draw(-9, 9)), float("nan"))[draw(0, 1)]

    def fill(_: nn.Module, __: Any, maps: list[Tensor]) -> list[Tensor]:
        return [x.masked_fill(mask_at(mask, *x.shape[-2:])[:, None], filling) for x in maps]

    with model.backbone.register_forward_hook(fill):
        check_close(model(images, mask), expected, f"with {filling} in the padding")


@law("model")
def absent_mask_is_an_empty_mask(make: Make, draw: Draw) -> None:
    """No mask and a mask without padding give the same."""
    model = draw_model(make, draw).eval()
    images, mask = draw_images(draw)
    check_close(model(images), model(images, torch.zeros_like(mask)), "without a mask")


@law("model")
def state_dict_and_config_carry_everything(make: Make, draw: Draw) -> None:
    """A model built from the saved configuration that has loaded the state dict gives the same, to the bit."""
    model = draw_model(make, draw, aux_loss=bool(draw(0, 1)), pre_norm=bool(draw(0, 1))).eval()
    config = DetectorConfig(**json.loads(json.dumps(model.config.to_dict())))
    assert config == model.config, f"the configuration changes when saved: {config}"
    twin = build(config).double().eval()
    twin.load_state_dict(model.state_dict())
    images, mask = draw_images(draw)
    check_close(twin.state_dict(), model.state_dict(), "in a copy by state dict", rtol=0)
    check_close(twin(images, mask), model(images, mask), "in a copy by state dict", rtol=0)


@law("model")
def one_seed_gives_one_model(make: Make, draw: Draw) -> None:
    """Built twice from one seed, the weights are the same to the bit, with any attention of the same function."""
    seed = draw(0, 2**31 - 1)
    torch.manual_seed(seed)
    expected = make().state_dict()
    for name in ("sdpa", *same_function()):
        torch.manual_seed(seed)
        check_close(make(**dict.fromkeys(ATTENTIONS, name)).state_dict(), expected, f"with {name}", rtol=0)


@law("model")
def evaluation_repeats_itself(make: Make, draw: Draw) -> None:
    """Evaluation is deterministic, and without dropout it is training."""
    model, (images, mask) = draw_model(make, draw, dropout=0.0), draw_images(draw)
    expected = model.eval()(images, mask)
    check_close(model(images, mask), expected, "when repeated", rtol=0)
    check_close(model.train()(images, mask), expected, "in training without dropout")


@law("model")
def dropout_acts_in_training_only(make: Make, draw: Draw) -> None:
    """With dropout, evaluation is what it is without, and training differs."""
    model, (images, mask) = draw_model(make, draw, dropout=0.5), draw_images(draw)
    plain = make(dropout=0.0)
    plain.load_state_dict(model.state_dict())
    expected = plain.eval()(images, mask)
    check_close(model.eval()(images, mask), expected, "in evaluation with dropout")
    assert not torch.allclose(model.train()(images, mask).logits, expected.logits), "dropout drops nothing in training"


@law("model")
def every_parameter_gets_a_finite_gradient(make: Make, draw: Draw) -> None:
    """Every parameter gets a finite gradient, also when no image has an object; and nothing else needs one."""
    model, (images, mask) = draw_model(make, draw, pre_norm=bool(draw(0, 1))), draw_images(draw)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for objects in (0, draw(1, 5)):
        model.zero_grad()
        losses = charge(model, images, mask, [draw_target(draw, objects) for _ in images])
        losses.total.backward()
        check_finite({name: p.grad for name, p in trained.items()}, f"among the gradients for {objects} objects")


@law("model")
def every_tensor_is_registered(make: Make, draw: Draw) -> None:
    """Each tensor that a module holds is a parameter or a buffer, so that it moves and is saved with the model."""
    model, (images, mask) = draw_model(make, draw), draw_images(draw)
    model(images, mask)
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            held = [] if attribute in ("_parameters", "_buffers") else list(tensors_in(value))
            assert not held, f"{name or 'the detector'} holds a tensor as {attribute!r}"


@law("model")
def order_of_queries_does_not_matter(make: Make, draw: Draw) -> None:
    """Permuting the learned queries permutes the detections."""
    model, (images, mask) = draw_model(make, draw).eval(), draw_images(draw)
    concern(model.config.queries == "positions", "its queries are not learned positions")
    expected, order = model(images, mask), draw_order(draw, model.config.num_queries)
    table = model.queries.get_submodule("positions").get_parameter("weight")
    table.data = table.data[order]
    permuted = expected.mapped(lambda part: part[:, :, order])
    check_close(model(images, mask), permuted, "with the queries permuted")


@law("model")
def looking_changes_nothing(make: Make, draw: Draw) -> None:
    """Watching all attentions does not change the output; every one of them tells where it looked, once."""
    model, (images, mask) = draw_model(make, draw).eval(), draw_images(draw)
    expected = model(images, mask)
    with watching_model(model) as watched:
        check_close(model(images, mask), expected, "while it is watched")
    layers = [*watched.encoder, *watched.cross, *watched.queries]
    assert [len(seen) for seen in layers] == [1] * len(layers), "not every attention tells once where it looked"
    check_close(model(images, mask), expected, "after it was watched", rtol=0)


@law("model")
def cells_seen_are_those_of_the_image(make: Make, draw: Draw) -> None:
    """What was seen of each image of a batch are distributions over the cells that are not its padding."""
    model, (images, mask) = draw_model(make, draw).eval(), draw_images(draw)
    with watching_model(model) as watched:
        model(images, mask)
    (memory,) = watched.memory
    for image, (look,) in ((i, seen) for i in range(len(images)) for seen in (*watched.cross, *watched.encoder)):
        sight = sight_of(look, memory, image, of_cells=False)
        assert sight.points is not None or sight.weights.shape[-1] == sum(h * w for h, w in sight.shapes)
        sums = torch.from_numpy(sight.weights).flatten(2).sum(-1)
        if mask is None or not mask[image].all():
            check_close(sums, torch.ones_like(sums), "when summed over the cells of the image", rtol=1e-5)


@law("model")
def dtype_follows_the_model(make: Make, draw: Draw) -> None:
    """In float32 and float64 outputs have the model's dtype, and nearly equal values."""
    model, (images, mask) = draw_model(make, draw).eval(), draw_images(draw)
    double, single = model(images, mask), model.float()(images.float(), mask)
    assert {part.dtype for part in double.pair} == {torch.float64}, "float64 images give another dtype"
    assert {part.dtype for part in single.pair} == {torch.float32}, "float32 images give another dtype"
    check_close(single, double, "in float32", rtol=1e-3)


@law("model")
def equivalent_parts_train_alike(make: Make, draw: Draw) -> None:
    """Attentions of one function, and optimal matchers, give the same outputs, losses and optimizer step."""
    images, mask = draw_images(draw)
    targets = [draw_target(draw, draw(0, 5)) for _ in images]
    model = draw_model(make, draw)
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    expected = step(model, images, mask, targets)
    for name in same_function():
        other = make(**dict.fromkeys(ATTENTIONS, name))
        other.load_state_dict(before)
        check_close(step(other, images, mask, targets), expected, f"with attention {name}", rtol=1e-8)
    for name in REGISTRY.names("matchers"):
        if REGISTRY.get("matchers", name).optimal:  # type: ignore[attr-defined]
            other = make(matcher=name)
            other.load_state_dict(before)
            check_close(step(other, images, mask, targets), expected, f"with matcher {name}", rtol=1e-8)


def step(model: Detector, images: Tensor, mask: Tensor, targets: list[Target]) -> dict[str, Any]:
    """One step of AdamW: the outputs before it, the losses, and the weights after it."""
    outputs = model(images, mask)
    losses = SetCriterion.from_config(model.config)(outputs, targets)
    losses.total.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    return {"outputs": outputs, "losses": losses.terms, "total": losses.total, "weights": model.state_dict()}


def charge(model: Detector, images: Tensor, mask: Tensor, targets: list[Target]) -> Losses:
    """Losses of a batch by the criterion that belongs to the model."""
    return SetCriterion.from_config(model.config)(model(images, mask), targets)


def same_function() -> list[str]:
    """Names of all attentions that compute the reference's function."""
    reference = REGISTRY.get("attention", REFERENCE).function  # type: ignore[attr-defined]
    names = REGISTRY.names("attention")
    return [n for n in names if REGISTRY.get("attention", n).function == reference]  # type: ignore[attr-defined]


def draw_model(make: Make, draw: Draw, **options: Any) -> Detector:
    """A model with random weights, biases and norms too, so that nothing is hidden by a zero."""
    torch.manual_seed(draw(0, 2**31 - 1))
    model = make(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def draw_images(draw: Draw, batch: int | None = None) -> tuple[Tensor, Tensor]:
    """Noise images with a mask, padded to the right and below."""
    batch, height, width = batch or draw(1, 3), draw(17, 48), draw(17, 48)
    mask = torch.ones(batch, height, width, dtype=torch.bool)
    for image in mask:
        image[: draw(9, height), : draw(9, width)] = False
    return draw_normal(draw, batch, 3, height, width), mask


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in a value, through containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from tensors_in(item)
