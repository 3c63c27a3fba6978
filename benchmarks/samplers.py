"""How fast is each sampler beside one ``grid_sample`` a level? Forward, and with gradients.

The peer is the formulation of Deformable DETR's own code without its kernel. The sizes are those of an image of
800x1066 at strides 8 to 64: 300 queries of a decoder, looking anywhere, and every token of an encoder, looking around.

python benchmarks/samplers.py --json benchmarks/results/samplers-2025-01-31.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from _measuring import COMPARED, Table, check_same, parse
from torch import Tensor

import detrkit
from detrkit.samplers import Sampler
from detrkit.transformer import Memory, cell_centres

PEER = "grid_sample"
HEADS, WIDTH, POINTS, SPREAD = 8, 32, 4, 3  # the last: cells that an encoder's points lie away
SHAPES = ((100, 134), (50, 67), (25, 34), (13, 17))
CASES: dict[str, tuple[tuple[tuple[int, int], ...], int | None]] = {"decoder": (SHAPES, 300), "encoder": (SHAPES, None)}
QUICK = {"decoder": (((4, 5), (2, 3)), 6), "encoder": (((4, 5), (2, 3)), None)}


def draw(shapes: tuple[tuple[int, int], ...], queries: int | None, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Values, points and weights of one image; without a number of queries, one at each cell."""
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(1, tokens, HEADS, WIDTH, device=device)
    shape = (1, queries or tokens, HEADS, len(shapes), POINTS)
    if queries:
        points = torch.rand(*shape, 2, device=device)
    else:
        centres = cell_centres(Memory(value[..., 0], shapes=shapes))
        cells = torch.tensor([(width, height) for height, width in shapes], device=device)[:, None]
        points = centres[:, :, None, None, None] + SPREAD * torch.randn(*shape, 2, device=device) / cells
    weights = torch.randn(*shape, device=device).flatten(3).softmax(-1).view(shape)
    return value.requires_grad_(), points.requires_grad_(), weights.requires_grad_()


def rivals(
    task: str, shapes: tuple[tuple[int, int], ...], inputs: tuple[Tensor, ...]
) -> dict[str, Callable[[], object]]:
    """The task for each sampler, after a look that all say the same."""
    samplers = {name: detrkit.make("samplers", name) for name in detrkit.names("samplers")}
    value, points, weights = inputs

    def run(sampler: Sampler) -> Callable[[], object]:
        def infer() -> Tensor:
            with torch.no_grad():
                return sampler.sample(value, shapes, points, weights)

        def learn() -> tuple[Tensor, ...]:
            return torch.autograd.grad(sampler.sample(value, shapes, points, weights).square().mean(), inputs)

        return infer if task == "inference" else learn

    runs = {name: run(sampler) for name, sampler in samplers.items()}
    if task == "inference":
        expected = runs[PEER]()
        for name, look in runs.items():
            check_same(look(), expected, name)  # type: ignore[arg-type]
    return runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=9)
    cases = QUICK if options.quick else CASES
    table = Table(options, "torch", columns={"queries": "<8", "task": "<9", **COMPARED}, sizes=cases)
    for case, (shapes, queries) in cases.items():
        inputs = draw(shapes, queries, options.device)
        for task in ("inference", "training"):
            table.compare(rivals(task, shapes, inputs), peer=PEER, queries=case, task=task)
    names = [name for name in detrkit.names("samplers") if name != PEER]
    means = ", ".join(f"{name} {table.ratio(name):.2f}" for name in names)
    table.conclude(f"In times of {PEER} (geometric means): {means}.")


if __name__ == "__main__":
    main()
