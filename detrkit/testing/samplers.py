"""The laws of the role `samplers`: each equals the reference and bilinear interpolation written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.looks import PointLook
from detrkit.registry import REGISTRY
from detrkit.samplers import Sampler
from detrkit.testing.law import Draw, Make, law
from detrkit.testing.tensors import check_close, check_finite, draw_generator, draw_normal, draw_order

REFERENCE = "grid_sample"


class Case(NamedTuple):
    """What a sampler reads; called with one, it gives the answer."""

    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    points: Tensor
    weights: Tensor

    def __call__(self, sampler: Sampler) -> Tensor:
        """What lies at the points."""
        return sampler.sample(self.value, self.shapes, self.points, self.weights)

    def map(self, change: Callable[[Tensor], Tensor]) -> Case:
        """The same change of the three tensors."""
        return Case(change(self.value), self.shapes, change(self.points), change(self.weights))


@law("samplers")
def equals_the_reference(make: Make, draw: Draw) -> None:
    """Output and all gradients equal those of `grid_sample`, points outside the map and levels of one cell included."""
    case = draw_case(draw)
    check_same(make(), case)
    check_same(make(), case.map(torch.Tensor.float))


@law("samplers")
def equals_the_reference_at_the_seams(make: Make, draw: Draw) -> None:
    """So it does at cells' centres, between cells and at the border, where the gradient jumps."""
    case = draw_case(draw, sides=(1, 2, 4, 8))  # whose halves are exact numbers: no rounding takes the other side
    steps = torch.randint(-20, 37, case.points.shape, generator=draw_generator(draw))
    check_same(make(), case._replace(points=steps.double() / 16))


@law("samplers")
def equals_interpolation_written_out(make: Make, draw: Draw) -> None:
    """Output equals bilinear interpolation, cell by cell in plain Python."""
    case = draw_case(draw, longest=3)
    check_close(case(make()), written_out(case), "from interpolation written out")


@law("samplers")
def centres_read_their_cells(make: Make, draw: Draw) -> None:
    """A point at the centre of a cell, its weight one and all others zero, reads that cell."""
    case, sampler = draw_case(draw), make()
    level, heads = draw(0, len(case.shapes) - 1), case.value.shape[2]
    height, width = case.shapes[level]
    row, column = draw(0, height - 1), draw(0, width - 1)
    points, weights = case.points.clone(), torch.zeros_like(case.weights)
    points[:, :, :, level, -1] = points.new_tensor([(column + 0.5) / width, (row + 0.5) / height])
    weights[:, :, :, level, -1] = 1
    cell = sum(h * w for h, w in case.shapes[:level]) + row * width + column
    expected = case.value[:, cell].flatten(1)[:, None].expand(-1, points.shape[1], -1)
    check_close(
        case._replace(points=points, weights=weights)(sampler), expected, f"of {heads} heads at a cell's centre"
    )


@law("samplers")
def what_is_read_is_what_a_look_shows(make: Make, draw: Draw) -> None:
    """Output equals the sums of all cells' values by the weights that a `PointLook` shares out over the cells."""
    case = draw_case(draw)
    maps = PointLook(case.points, case.weights).over_cells(case.shapes)
    expected = (maps @ case.value.transpose(1, 2)).transpose(1, 2).flatten(2)
    check_close(case(make()), expected, "from the sum over all cells")


@law("samplers")
def nothing_is_read_outside(make: Make, draw: Draw) -> None:
    """Points far outside every map, near or very far, read zeros and get finite gradients."""
    case, sampler = draw_case(draw), make()
    away = torch.where(case.points < 0.5, -1.0, 2.0).to(case.points)
    for factor in (1.0, 1e6):
        far = case._replace(points=away * factor).map(_leaf)
        found = far(sampler)
        assert (found == 0).all(), "something is read outside the map"
        found.sum().backward()
        check_finite({"points": far.points.grad, "value": far.value.grad}, "among the gradients of points outside")


@law("samplers")
def linear_in_values_and_weights(make: Make, draw: Draw) -> None:
    """Sums of values give sums of outputs, and so do sums of weights, of any sign."""
    case, sampler = draw_case(draw), make()
    for name in ("value", "weights"):
        part = getattr(case, name)
        other, factor = draw_normal(draw, *part.shape), draw(-3, 3)
        expected = case(sampler) + factor * case._replace(**{name: other})(sampler)  # type: ignore[arg-type]
        check_close(
            case._replace(**{name: part + factor * other})(sampler), expected, f"for a sum of {name}", rtol=1e-10
        )


@law("samplers")
def queries_and_images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Permuting images or queries permutes the outputs, and each image gives alone what it gives in the batch."""
    case, sampler = draw_case(draw), make()
    together = case(sampler)
    order = draw_order(draw, case.points.shape[1])
    shuffled = case._replace(points=case.points[:, order], weights=case.weights[:, order])
    check_close(shuffled(sampler), together[:, order], "in another order of the queries")
    alone = [case.map(lambda part, i=i: part[i : i + 1])(sampler) for i in range(len(together))]  # type: ignore[misc]
    check_close(torch.cat(alone), together, "image by image")


@law("samplers")
def memory_layout_does_not_matter(make: Make, draw: Draw) -> None:
    """Tensors that are not contiguous give what their copies give, gradients included."""
    case, sampler = draw_case(draw), make()
    strided = case.map(lambda part: part.transpose(0, -1).contiguous().transpose(0, -1))
    check_close(gradients(sampler, strided), gradients(sampler, case), "for tensors that are not contiguous")


@law("samplers")
def no_queries_read_nothing(make: Make, draw: Draw) -> None:
    """Without queries the output is empty, of the right width, and the values' gradient is zero."""
    case = draw_case(draw).map(_leaf)
    none = case._replace(points=case.points[:, :0], weights=case.weights[:, :0])
    found = none(make())
    expected = (len(case.value), 0, case.value[0, 0].numel())
    assert found.shape == expected, f"no queries give shape {tuple(found.shape)}, not {expected}"
    found.sum().backward()
    assert case.value.grad is not None, "no gradient reaches the values without queries"
    assert not case.value.grad.any(), "values get a gradient though nothing was read"


def draw_case(draw: Draw, *, longest: int = 6, sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)) -> Case:
    """Levels of any size, points inside and outside of them, weights of any sign; float64."""
    images, queries, heads, width, points = draw(1, 2), draw(1, longest), draw(1, 3), draw(1, 4), draw(1, 3)
    shapes = tuple(
        (sides[draw(0, len(sides) - 1)], sides[draw(0, len(sides) - 1)]) for _ in range(draw(1, min(longest, 4)))
    )
    value = draw_normal(draw, images, sum(height * columns for height, columns in shapes), heads, width)
    wanted = (images, queries, heads, len(shapes), points)
    return Case(value, shapes, 0.5 + 0.5 * draw_normal(draw, *wanted, 2), draw_normal(draw, *wanted))


def gradients(sampler: Sampler, case: Case) -> dict[str, Tensor | None]:
    """Output, and the gradients of a fixed mixture of it."""
    case = case.map(_leaf)
    output = case(sampler)
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output))
    own = {"value": case.value, "points": case.points, "weights": case.weights}
    return {"output": output.detach(), **{f"gradient of {name}": part.grad for name, part in own.items()}}


def check_same(sampler: Sampler, case: Case) -> None:
    """Require the output and the gradients of the reference, each on its own scale."""
    reference = gradients(REGISTRY.get("samplers", REFERENCE)(), case)
    for name, found in gradients(sampler, case).items():
        rounding = 1e-11 if case.value.dtype == torch.float64 else 1e-4
        check_close({name: found}, {name: reference[name]}, "from the reference", rtol=rounding)


def written_out(case: Case) -> Tensor:
    """Deformable DETR, equation 3, a number at a time."""
    images, queries, heads, _, count = case.weights.shape
    found = case.value.new_zeros(images, queries, heads, case.value.shape[-1])
    for image, query, head in ((i, q, h) for i in range(images) for q in range(queries) for h in range(heads)):
        start = 0
        for level, (height, width) in enumerate(case.shapes):
            for point in range(count):
                at = (image, query, head, level, point)
                x, y = (
                    place * side - 0.5 for place, side in zip(case.points[at].tolist(), (width, height), strict=True)
                )
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - abs(x - column)) * (1 - abs(y - row)) * float(case.weights[at])
                            found[image, query, head] += share * case.value[image, start + row * width + column, head]
            start += height * width
    return found.flatten(2)


def _leaf(part: Tensor) -> Tensor:
    return part.detach().requires_grad_()
