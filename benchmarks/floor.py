"""How far is each model from what this machine can do? Multiplications it needs, over the rates measured here.

First the rates of plain matrix products and convolutions at the shapes of DETR; then for each model its GMACs, the time
they would take at the best rate of their kind, and the time that its inference takes. What lies between is norms,
activations, copies, and convolutions of shapes that run slower.

python benchmarks/floor.py --json benchmarks/results/floor-2025-01-31.json
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from _measuring import Table, inferring, interleaved, parse
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import detrkit
from detrkit.testing.model import ATTENTIONS

MATRIX, CONVOLUTION = "matrix", "convolution"
# rows, inner, columns: square; a feed-forward layer and a projection of the encoder (800x1066) and of the decoder
MATRICES = [(2048, 2048, 2048), (850, 256, 2048), (850, 256, 256), (100, 256, 256)]
# channels in and out, kernel, and the map at 800x1066: the stages of a ResNet-50
CONVOLUTIONS = [
    (64, 64, 3, 200, 267), (64, 256, 1, 200, 267), (128, 128, 3, 100, 134), (512, 128, 1, 100, 134),
    (256, 256, 3, 50, 67), (1024, 256, 1, 50, 67), (512, 512, 3, 25, 34), (2048, 512, 1, 25, 34),
]  # fmt: skip
PRESETS = [("detr_tiny", (96, 96)), ("detr_r50", (480, 640)), ("detr_r50", (800, 1066)), ("detr_r101", (480, 640))]
COLUMNS = {"what": "<12", "shape": "<28", "GMACs": ">8.2f", "ms": ">9.2f", "GFLOP/s": ">9.1f", "floor_ms": ">9.2f"}
COLUMNS |= {"distance": ">9.2f"}


def products(device: str, quick: bool) -> Iterator[tuple[str, str, float, Callable[[], object]]]:
    """Kind, shape, GMACs and the call of each product to be timed."""
    draw = partial(torch.randn, device=device)
    for rows, inner, columns in MATRICES[-1:] if quick else MATRICES:
        run = partial(torch.mm, draw(rows, inner), draw(inner, columns))
        yield MATRIX, f"{rows}x{inner} @ {inner}x{columns}", rows * inner * columns / 1e9, run
    for c_in, c_out, kernel, height, width in CONVOLUTIONS[-1:] if quick else CONVOLUTIONS:
        for layout in (torch.contiguous_format, torch.channels_last):
            image = draw(1, c_in, height, width).to(memory_format=layout)
            weight = draw(c_out, c_in, kernel, kernel).to(memory_format=layout)
            gmacs = c_in * c_out * kernel**2 * height * width / 1e9
            last = ", last" if layout is torch.channels_last else ""
            name = f"{kernel}x{kernel} {c_in}>{c_out} at {height}x{width}{last}"
            yield CONVOLUTION, name, gmacs, partial(F.conv2d, image, weight, padding=kernel // 2)


@torch.no_grad()
def rates(table: Table, device: str) -> dict[str, float]:
    """The best rate of each kind, in GMACs a second."""
    calls = list(products(device, table.options.quick))
    seconds = interleaved(
        {shape: run for _, shape, _, run in calls}, 3 * table.options.rounds, device=device, clock=table.clock
    )
    best = {MATRIX: 0.0, CONVOLUTION: 0.0}
    for kind, shape, gmacs, _ in calls:
        median = statistics.median(seconds[shape])
        best[kind] = max(best[kind], gmacs / median)
        table.add(what=kind, shape=shape, **speed(gmacs, median))
    return best


def speed(gmacs: float, seconds: float) -> dict[str, float]:
    """The columns that products and models have in common."""
    return {"GMACs": gmacs, "ms": 1e3 * seconds, "GFLOP/s": 2 * gmacs / seconds}


def work(preset: str, images: Tensor) -> dict[str, float]:
    """GMACs of each kind; counted with attention written out, since the counter does not know every fused kernel."""
    model = detrkit.build(preset, **dict.fromkeys(ATTENTIONS, "matrix")).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(images.to("meta"))
    counts = counter.get_flop_counts()["Global"]
    convolutions = sum(flops for operation, flops in counts.items() if "convolution" in str(operation))
    return {CONVOLUTION: convolutions / 2e9, MATRIX: (sum(counts.values()) - convolutions) / 2e9}


def measure(table: Table, preset: str, size: tuple[int, int], best: dict[str, float], device: str) -> None:
    """A row each for the model and its folded copy."""
    images = torch.randn(1, 3, *size, device=device)
    needed = work(preset, images)
    floor = sum(gmacs / best[kind] for kind, gmacs in needed.items())
    model = detrkit.build(preset).eval().to(device)
    models: dict[str, nn.Module] = {preset: model, f"{preset} folded": model.for_inference()}
    runs = {name: inferring(each, images) for name, each in models.items()}
    for name, own in interleaved(runs, table.options.rounds, device=device, clock=table.clock).items():
        median, shape = statistics.median(own), f"{name} {size[0]}x{size[1]}"
        numbers = {**speed(sum(needed.values()), median), "floor_ms": 1e3 * floor, "distance": median / floor}
        table.add(what="model", shape=shape, **numbers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=5)
    table = Table(options, "torch", columns=COLUMNS)
    best = rates(table, options.device)
    for preset, size in PRESETS[:1] if options.quick else PRESETS:
        measure(table, preset, size, best, options.device)
    last = " and ".join(f"{row['shape']} {row['distance']:.2f} times" for row in table.rows[-2:])
    table.conclude(
        f"This machine multiplies matrices at {2 * best[MATRIX]:.0f} and convolves at {2 * best[CONVOLUTION]:.0f} "
        f"GFLOP/s at best; from that floor are {last}."
    )


if __name__ == "__main__":
    main()
