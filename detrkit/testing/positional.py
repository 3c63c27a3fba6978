"""The laws of the role `positional`."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.errors import DetrkitError, ShapeError
from detrkit.positional import Positional
from detrkit.testing.law import Draw, Make, law
from detrkit.testing.tensors import check_close, check_finite, draw_normal

WIDTHS = (24, 48)  # divisible by all that a component may reasonably ask for
LARGEST = 12
SMALLEST_DISTANCE = 1e-4


@law("positional")
def codes_are_as_declared(make: Make, draw: Draw) -> None:
    """Gives [B, D, H, W] in the dtype of the module, float32 or float64, nearly equal."""
    width = WIDTHS[draw(0, 1)]
    positional = make(d_model=width)
    mask = draw_padding(draw, positional)
    single, double = positional(mask), positional.double()(mask)
    shape = (len(mask), width, *mask.shape[1:])
    for codes, dtype in ((single, torch.float32), (double, torch.float64)):
        assert codes.shape == shape, f"codes have shape {tuple(codes.shape)}, not {shape}"
        assert codes.dtype == dtype, f"a module in {dtype} gives {codes.dtype}"
        assert codes.device == mask.device, f"codes are on {codes.device}, the mask on {mask.device}"
    seen = ~mask[:, None].expand_as(single)
    check_close(single[seen], double[seen], "in float32", rtol=1e-4)


@law("positional")
def codes_are_finite(make: Make, draw: Draw) -> None:
    """Finite for any mask: one cell, fully padded, padded in any pattern; and so is the gradient of every parameter."""
    positional = make(d_model=WIDTHS[draw(0, 1)])
    padded = draw_padding(draw, positional)
    pattern = draw_normal(draw, *padded.shape) < draw(-1, 1)
    cell = torch.zeros(1, 1, 1, dtype=torch.bool)
    for mask in (padded, pattern, torch.ones_like(padded), cell, ~cell):
        positional.zero_grad()
        codes = positional(mask)
        check_finite({"a code": codes}, f"for a mask of shape {tuple(mask.shape)}")
        if codes.requires_grad:
            codes.square().sum().backward()
        check_finite({n: p.grad for n, p in positional.named_parameters() if p.requires_grad}, "among the gradients")


@law("positional")
def padding_changes_no_code(make: Make, draw: Draw) -> None:
    """Padding to the right and below leaves the codes of the image's own cells as they are, to the bit."""
    positional = make(d_model=WIDTHS[draw(0, 1)])
    rows, columns = draw_size(draw, positional), draw_size(draw, positional)
    height, width = draw_size(draw, positional, rows), draw_size(draw, positional, columns)
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, :rows, :columns] = False
    found = positional(mask)[..., :rows, :columns]
    check_close(found, positional(mask[:, :rows, :columns]), "with padding to the right and below", rtol=0)


@law("positional")
def cells_have_distinct_codes(make: Make, draw: Draw) -> None:
    """No two cells of an image have the same code."""
    positional = make(d_model=WIDTHS[draw(0, 1)])
    mask = draw_padding(draw, positional)
    for image, hidden in zip(positional(mask), mask, strict=True):
        codes = image.permute(1, 2, 0)[~hidden].double()
        apart = torch.nn.functional.pdist(codes)
        assert (apart > SMALLEST_DISTANCE).all(), f"two cells have codes only {apart.min():.3g} apart"


@law("positional")
def codes_depend_on_the_mask_alone(make: Make, draw: Draw) -> None:
    """Repeats itself in training, evaluation and after other masks; images of a batch do not influence each other."""
    positional = make(d_model=WIDTHS[draw(0, 1)])
    mask, before = draw_padding(draw, positional), torch.get_rng_state()
    first = positional.train()(mask)
    assert torch.equal(torch.get_rng_state(), before), "draws from the global random generator"
    positional(draw_padding(draw, positional))
    check_close(positional.eval()(mask), first, "when asked again, in evaluation", rtol=0)
    alone = torch.cat([positional(image[None]) for image in mask])
    check_close(alone, first, "image by image", rtol=1e-6)


@law("positional")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same codes, to the bit."""
    width = WIDTHS[draw(0, 1)]
    positional, twin = make(d_model=width), make(d_model=width)
    mask = draw_padding(draw, positional)
    with torch.no_grad():
        for parameter in positional.parameters():
            parameter += torch.randn_like(parameter)
    twin.load_state_dict(positional.state_dict())
    check_close(twin(mask), positional(mask), "in a copy by state dict", rtol=0)


@law("positional")
def bad_masks_are_refused(make: Make, draw: Draw) -> None:
    """A mask that is not bool [B, H, W] raises ShapeError."""
    positional = make(d_model=WIDTHS[draw(0, 1)])
    mask = draw_padding(draw, positional)
    refused = [mask.to(dtype) for dtype in (torch.float32, torch.int64, torch.uint8)]
    for wrong in (*refused, mask[0], mask[:, None], mask.flatten(), mask[:, 0]):
        try:
            positional(wrong)
        except ShapeError:
            continue
        raise AssertionError(f"a mask of {wrong.dtype} and shape {tuple(wrong.shape)} was not refused by ShapeError")


@law("positional")
def width_fits_or_is_refused(make: Make, draw: Draw) -> None:
    """Any d_model is either refused at construction by an error that names it, or gives that many channels."""
    width, positional, message = draw(1, 30), None, ""
    try:
        positional = make(d_model=width)
    except DetrkitError as error:
        message = str(error)
    if positional is None:
        missing = [part for part in ("d_model", str(width)) if part not in message]
        assert not missing, f"the error does not name {' and '.join(missing)}: {message}"
    else:
        channels = positional(torch.zeros(1, 1, 1, dtype=torch.bool)).shape[1]
        assert channels == width, f"d_model={width} gives {channels} channels"


def draw_size(draw: Draw, positional: Positional, smallest: int = 1) -> int:
    """A height or width that the component can encode."""
    return draw(smallest, min(LARGEST, positional.max_size or LARGEST))


def draw_padding(draw: Draw, positional: Positional) -> Tensor:
    """Masks of 1 to 3 images, padded to the right and below."""
    images, height, width = draw(1, 3), draw_size(draw, positional), draw_size(draw, positional)
    mask = torch.ones(images, height, width, dtype=torch.bool)
    for image in mask:
        image[: draw(1, height), : draw(1, width)] = False
    return mask
