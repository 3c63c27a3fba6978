"""The laws of the role `encoders`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from detrkit.encoders import Encoder
from detrkit.registry import REGISTRY
from detrkit.testing.law import Draw, Make, concern, law
from detrkit.testing.memory import check_gradients, disturb, image_of, mixture, pad
from detrkit.testing.tensors import check_close, draw_normal
from detrkit.transformer import EncoderLayer, FeedForward, Memory, Residual

WIDTH, FINEST = 16, 8


@law("encoders")
def only_tokens_change(make: Make, draw: Draw) -> None:
    """Gives new tokens of the same shape and dtype, and leaves positions, padding and levels as they are."""
    case = Case(make, draw)
    found, memory = case.encoder(case.memory), case.memory
    assert found.tokens.shape == memory.tokens.shape, f"tokens have shape {tuple(found.tokens.shape)}"
    assert found.tokens.dtype == torch.float64, f"a module in float64 gives {found.tokens.dtype}"
    assert found.shapes == memory.shapes, f"levels {memory.shapes} become {found.shapes}"
    for name in ("positions", "padding", "valid"):
        assert torch.equal(getattr(found, name), getattr(memory, name)), f"the {name} of the memory change"


@law("encoders")
def padding_has_no_influence(make: Make, draw: Draw) -> None:
    """Padded tokens may change, even to NaN: those that are seen stay; a mask that hides nothing changes nothing."""
    case = Case(make, draw)
    hidden = cast(Tensor, case.memory.padding)[..., None]
    expected = case.encoder(case.memory).tokens.masked_fill(hidden, 0)
    for filling in (float(draw(-9, 9)), float("nan")):
        memory = case.memory._replace(tokens=case.memory.tokens.masked_fill(hidden, filling))
        found = case.encoder(memory).tokens.masked_fill(hidden, 0)
        check_close(found, expected, f"with {filling} in the padding")
    bare = case.memory._replace(padding=None, valid=None)
    check_close(case.encoder(pad(bare, {})).tokens, case.encoder(bare).tokens, "with a mask that hides nothing")


@law("encoders")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """In evaluation, a batch gives what its images give one by one."""
    case = Case(make, draw)
    alone = [case.encoder(image_of(case.memory, i)).tokens for i in range(len(case.memory.tokens))]
    check_close(torch.cat(alone), case.encoder(case.memory).tokens, "image by image")


@law("encoders")
def levels_know_of_each_other(make: Make, draw: Draw) -> None:
    """What stands in one level matters in every level."""
    case = Case(make, draw, padded=False)
    concern(len(case.memory.shapes) > 1 and list(case.encoder.parameters()) != [], "no two levels, or no layers")
    expected = [level.tokens for level in case.encoder(case.memory).levels()]
    changed = draw(0, len(expected) - 1)
    sizes = [height * width for height, width in case.memory.shapes]
    tokens = [part.clone() for part in case.memory.tokens.split(sizes, dim=1)]
    tokens[changed] += draw_normal(draw, *tokens[changed].shape)
    found = case.encoder(case.memory._replace(tokens=torch.cat(tokens, dim=1))).levels()
    for level, (here, before) in enumerate(zip(found, expected, strict=True)):
        assert not torch.allclose(here.tokens, before), f"level {level} does not notice level {changed}"


@law("encoders")
def every_parameter_gets_a_finite_gradient(make: Make, draw: Draw) -> None:
    """A loss of the tokens reaches every parameter, in training and evaluation."""
    case = Case(make, draw)
    concern(list(case.encoder.parameters()) != [], "has no layers")
    for training in (True, False):
        case.encoder.zero_grad()
        seen = case.encoder.train(training)(case.memory).tokens
        mixture(draw, seen.masked_fill(cast(Tensor, case.memory.padding)[..., None], 0)).backward()
        check_gradients(case.encoder)


@law("encoders")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same, to the bit."""
    case = Case(make, draw)
    case.encoder.train()(case.memory)  # moves what norms count in training
    twin = case.made().double().eval()
    twin.load_state_dict(case.encoder.state_dict())
    check_close(twin(case.memory).tokens, case.encoder.eval()(case.memory).tokens, "in a copy by state dict", rtol=0)


class Case:
    """An encoder of dense layers in float64 with noise on all parameters, in evaluation, and a memory of levels."""

    def __init__(self, make: Make, draw: Draw, *, padded: bool = True) -> None:
        levels, number = draw(1, 3), draw(0, 2)
        strides = tuple(FINEST * 2**level for level in range(levels))
        options = {"encoder_norm": bool(draw(0, 1)), "scale_positions": bool(number and draw(0, 1))}
        self.made = lambda: make(layers=layers(number), d_model=WIDTH, level_strides=strides, **options)
        self.encoder = cast(Encoder, disturb(self.made(), draw)).eval()
        height, width = draw(17, 50), draw(17, 50)
        shapes = tuple((-(-height // stride), -(-width // stride)) for stride in strides)
        count, images = sum(h * w for h, w in shapes), draw(2, 3)
        tokens, positions = (draw_normal(draw, images, count, WIDTH) for _ in range(2))
        memory = Memory(tokens, positions, shapes=shapes)
        self.memory = pad(memory, {images - 1: (draw(1, 4) / 4, draw(1, 4) / 4)}) if padded else memory


def layers(number: int) -> nn.ModuleList:
    """Dense encoder layers."""

    def one() -> EncoderLayer:
        attention = REGISTRY.make("attention", "sdpa(heads=2)", d_model=WIDTH, dropout=0.0)
        ffn = FeedForward(WIDTH, 2 * WIDTH, 0.0, "relu")
        return EncoderLayer(attention, ffn, lambda: Residual(WIDTH, 0.0, pre_norm=False))

    return nn.ModuleList(one() for _ in range(number))
