"""How fast are the positional encodings beside the sine as other libraries write it down?

The peer is a plain statement of the formula: it divides every cell by every frequency, pairs included, and then picks
the even and the odd ones, as the official code and transformers do.

python benchmarks/positional.py --json benchmarks/results/positional-2025-01-31.json
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from _measuring import COMPARED, Table, check_same, inferring, parse
from torch import Tensor

import detrkit

D_MODEL = 256
PLAIN = "plain statement"
# images, rows and columns of the map: 480x640 and 800x1066 at stride 32, then at 16 (dilated) and 8 (multi-scale)
CASES = [(2, 15, 20), (2, 25, 34), (2, 50, 67), (2, 100, 134)]
QUICK = [(2, 5, 7)]


def plain_sine(mask: Tensor) -> Tensor:
    """The normalised sine of DETR, formula by formula: [B, D, H, W]."""
    seen = (~mask).float()
    frequency = torch.arange(D_MODEL // 2, dtype=torch.float32, device=mask.device)
    frequency = 10000 ** (2 * frequency.div(2, rounding_mode="floor") / (D_MODEL // 2))
    codes = []
    for axis in (1, 2):
        count = seen.cumsum(axis)
        angle = count / (count.select(axis, -1).unsqueeze(axis) + 1e-6) * 2 * math.pi
        angle = angle[..., None] / frequency
        codes.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
    return torch.cat(codes, dim=3).permute(0, 3, 1, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=21)
    table = Table(options, "torch", columns={"map": "<12", **COMPARED})
    make = partial(detrkit.make, "positional", d_model=D_MODEL)
    for images, height, width in QUICK if options.quick else CASES:
        mask = torch.zeros(images, height, width, dtype=torch.bool, device=options.device)
        mask[1:, :, width - width // 4 :] = True
        ours = {name: make(f"{name}(size=200)" if name == "learned" else name) for name in detrkit.names("positional")}
        ours = {name: module.to(options.device) for name, module in ours.items()}
        check_same(ours["sine"](mask), plain_sine(mask), "sine")
        rivals = {PLAIN: lambda mask=mask: plain_sine(mask), **{n: inferring(m, mask) for n, m in ours.items()}}
        table.compare(rivals, peer=PLAIN, map=f"{images}x{height}x{width}")
    means = " and ".join(f"{name} {table.ratio(name):.2f}" for name in ours)
    table.conclude(f"In times of the plain statement (geometric means): {means}.")


if __name__ == "__main__":
    main()
