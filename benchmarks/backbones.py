"""How fast is our ResNet-50 trunk, with frozen norms, beside those of torchvision, timm and transformers?

All have the same weights where the names allow it, and the same number of multiplications. The peer is torchvision's
trunk with its own ``FrozenBatchNorm2d``, which is what the official DETR uses. "folded" is for inference only.

python benchmarks/backbones.py --json benchmarks/results/backbones-2025-01-31.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import timm
import torch
from _measuring import COMPARED, Table, check_same, inferring, learning, parse
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d
from transformers import ResNetBackbone, ResNetConfig

import detrkit
from detrkit.folding import folded

OFFICIAL, OURS, FOLDED = "torchvision, frozen", "detrkit", "detrkit folded"
INFERENCE = [(480, 640), (800, 1066)]
TRAINING = [(480, 640)]
QUICK = [(64, 96)]


class LastMap(nn.Module):
    """A trunk that gives its coarsest map, however it gives several."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        """[B, 2048, H/32, W/32]."""
        maps = self.trunk(images)
        if not isinstance(maps, list):
            maps = [*(maps.feature_maps if hasattr(maps, "feature_maps") else maps.values())]
        return maps[-1]


def contestants(device: str) -> dict[str, nn.Module]:
    """Trunks in evaluation, where batch norms do what frozen ones do; all of them train their convolutions."""
    networks = {OFFICIAL: resnet50(norm_layer=FrozenBatchNorm2d), "torchvision": resnet50()}
    ours = detrkit.make("backbones", "torchvision(model='resnet50')")
    trunks = {
        **{name: create_feature_extractor(network, {"layer4": "map"}) for name, network in networks.items()},
        "timm": timm.create_model("resnet50", features_only=True, out_indices=(4,)),
        "transformers": ResNetBackbone(ResNetConfig(out_features=["stage4"])),
        OURS: ours,
    }
    weights = ours.body.state_dict()
    for name in (OFFICIAL, "torchvision", "timm"):
        trunks[name].load_state_dict(weights, strict=False)
    modules = {name: LastMap(trunk).eval().to(device) for name, trunk in trunks.items()}
    modules[FOLDED] = LastMap(folded(ours.eval()))
    return modules


@torch.no_grad()
def check(modules: dict[str, nn.Module], images: Tensor) -> None:
    """All do the same work; those of the same names say the same."""
    expected = modules[OFFICIAL](images)
    work = {}
    for name, module in modules.items():
        with FlopCounterMode(display=False) as counter:
            found = module(images)
        work[name] = counter.get_total_flops()
        if name != "transformers":  # keeps its own weights
            check_same(found, expected, name)
    if len(set(work.values())) > 1:
        raise SystemExit(f"the trunks do not do the same work: {work}")


def training(module: nn.Module, images: Tensor) -> Callable[[], object]:
    """Gradients of all convolutions."""
    return learning(module, lambda: module(images).square().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=5)
    packages = ("torch", "torchvision", "timm", "transformers")
    table = Table(options, *packages, columns={"image": "<9", "task": "<9", **COMPARED})
    modules = contestants(options.device)
    for task, rival, sizes in (("inference", inferring, INFERENCE), ("training", training, TRAINING)):
        if task == "training":
            del modules[FOLDED]
        for size in QUICK if options.quick else sizes:
            images = torch.randn(1, 3, *size, device=options.device)
            check(modules, images)
            rivals = {name: rival(module, images) for name, module in modules.items()}
            table.compare(rivals, peer=OFFICIAL, image=f"{size[0]}x{size[1]}", task=task)
    plain, learned = (table.ratio(OURS, task=task) for task in ("inference", "training"))
    table.conclude(
        f"Our trunk takes {plain:.2f} times the official one's inference ({table.ratio(FOLDED):.2f} folded), and "
        f"{learned:.2f} times its training."
    )


if __name__ == "__main__":
    main()
