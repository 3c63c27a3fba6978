"""How fast is the whole DETR-R50 beside transformers'? Inference, and a training step up to its gradients.

Both have the same weights. Before anything is timed they must say the same logits and boxes, the same loss and the same
gradients of a small padded batch, in float64 and in evaluation, since dropout is random. In training, all layers are
charged on both sides, the batch is padded, and dropout is as published. "folded", "bf16" and "compiled" are settings of
`Detector.for_inference`; the last needs ``--compile``, a compiler, and minutes.

python benchmarks/model.py --json benchmarks/results/model-2025-01-31.json
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from _measuring import COMPARED, Table, check_same, inferring, learning, parse
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

import detrkit
from detrkit.checkpoints import save_transformers
from detrkit.model import Detector, DetectorOutput
from detrkit.preprocessing import PaddedImages, pad

OURS, FOLDED, BF16 = "detrkit", "detrkit folded", "detrkit bf16"
COMPILED = {"detrkit compiled": "none", "detrkit bf16, comp.": "bf16"}
EAGER, SDPA = "transformers eager", "transformers sdpa"
PACKAGES = ("torch", "torchvision", "timm", "transformers")
OBJECTS = 7
TOLERANCE = 1e-6
ROUNDED = 0.1  # of the largest number, in bfloat16
INFERENCE = [(480, 640), (800, 1066)]
TRAINING = [(480, 640), (448, 600)]
QUICK = [(64, 96), (49, 64)]


class Theirs(nn.Module):
    """DETR of transformers that tells all layers, as ours does; its own ``auxiliary_loss`` makes it another network."""

    def __init__(self, folder: str, attention: str) -> None:
        super().__init__()
        self.model = DetrForObjectDetection.from_pretrained(folder, attn_implementation=attention)

    def forward(self, images: Tensor, mask: Tensor | None) -> DetectorOutput:
        """Logits and boxes of every layer."""
        seen = None if mask is None else (~mask).long()
        found = self.model(images, seen, output_hidden_states=True)
        *earlier, last = found.decoder_hidden_states[1:]  # only the last one is normed
        states = torch.stack([*map(self.model.model.decoder.layernorm, earlier), last])
        return DetectorOutput(self.model.class_labels_classifier(states), self.model.bbox_predictor(states).sigmoid())


class Plainly(nn.Module):
    """Their inference as users call it."""

    def __init__(self, theirs: Theirs) -> None:
        super().__init__()
        self.model = theirs.model

    def forward(self, images: Tensor, mask: Tensor | None) -> DetectorOutput:
        """Logits and boxes of the last layer."""
        found = self.model(images, None if mask is None else (~mask).long())
        return DetectorOutput(found.logits[None], found.pred_boxes[None])


def our_loss(model: Detector, batch: PaddedImages, targets: list[dict[str, Tensor]]) -> Callable[[], Tensor]:
    criterion = detrkit.SetCriterion.from_config(model.config)
    return lambda: criterion(model(*batch), targets).total


def their_loss(model: Theirs, batch: PaddedImages, targets: list[dict[str, Tensor]]) -> Callable[[], Tensor]:
    config = DetrConfig(**{**model.model.config.to_dict(), "auxiliary_loss": True})
    wanted = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]

    def loss() -> Tensor:
        outputs = model(*batch)
        last = outputs.pred_logits, wanted, batch.images.device, outputs.pred_boxes
        return ForObjectDetectionLoss(*last, config, *outputs.pair)[0]

    return loss


class Contest(NamedTuple):
    """The same detector by both libraries."""

    ours: Detector
    theirs: dict[str, Theirs]

    def to(self, target: str | torch.dtype) -> Contest:
        """On a device, or in a precision; in evaluation."""
        return Contest(
            self.ours.eval().to(target), {name: model.eval().to(target) for name, model in self.theirs.items()}
        )

    def inference(self) -> dict[str, nn.Module]:
        """Modules of images and mask that tell the last layer, as users call them."""
        return {
            OURS: self.ours,
            FOLDED: self.ours.for_inference(),
            **{name: Plainly(each) for name, each in self.theirs.items()},
        }

    @torch.no_grad()
    def rounded(self, compile: bool, images: Tensor) -> dict[str, nn.Module]:
        """More of ours, which say the same but for rounding."""
        amps = {BF16: "bf16", **(COMPILED if compile else {})}
        made = {name: self.ours.for_inference(amp=amp, compile=name in COMPILED) for name, amp in amps.items()}
        expected = self.ours(images, None)
        for name, module in made.items():
            for what in ("pred_logits", "pred_boxes"):
                check_same(getattr(module(images, None), what), getattr(expected, what), f"{what} of {name}", ROUNDED)
        return made

    def losses(
        self, sizes: Sequence[tuple[int, int]], device: str
    ) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
        """Each model with its loss of a padded batch that has seven objects an image."""
        batch = pad([torch.randn(3, *size) for size in sizes]).to(torch.device(device))
        labels = torch.arange(OBJECTS, device=device)
        targets = [{"boxes": 0.1 + 0.4 * torch.rand(OBJECTS, 4, device=device), "labels": labels} for _ in sizes]
        theirs = {name: (model, their_loss(model, batch, targets)) for name, model in self.theirs.items()}
        return {OURS: (self.ours, our_loss(self.ours, batch, targets)), **theirs}

    def check(self, device: str) -> None:
        """Both must compute the same."""
        images, mask = pad([torch.randn(3, *size) for size in QUICK]).to(torch.device(device))
        with torch.no_grad():
            said = {name: module(images, mask) for name, module in self.inference().items()}
        learned = {name: told(*each) for name, each in self.losses(QUICK, device).items()}
        for name in said:
            for what in ("pred_logits", "pred_boxes"):
                check_same(getattr(said[name], what), getattr(said[OURS], what), f"{what} of {name}", TOLERANCE)
        for name, found in learned.items():
            for what, tensor in found.items():
                check_same(tensor, learned[OURS][what], f"{what} of {name}", TOLERANCE)


def contestants(device: str) -> Contest:
    """Ours with random weights, theirs with the same, after a look that they are the same."""
    ours = detrkit.build("detr_r50")
    with torch.no_grad():
        for name, entry in ours.backbone.state_dict().items():
            if name.endswith(("running_var", "bias")):  # norms that do nothing would hide a mistake
                entry.add_(0.1 * torch.rand_like(entry))
    with TemporaryDirectory() as folder:
        save_transformers(ours, folder)
        contest = Contest(ours, {EAGER: Theirs(folder, "eager"), SDPA: Theirs(folder, "sdpa")}).to(device)
    torch.set_default_dtype(torch.float64)  # their class weights have it
    contest.to(torch.float64).check(device)
    torch.set_default_dtype(torch.float32)
    return contest.to(torch.float32)


def told(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The loss, and its gradients at the class head and at the first trained convolution of the trunk."""
    learning(model, loss)()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    head, trunk = (next(g for n, g in found.items() if part in n) for part in ("class", "layer2.0.conv1.weight"))
    return {"loss": loss().detach(), "gradient of the head": head, "gradient of the trunk": trunk}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = parse(__doc__, arguments, rounds=5, flags={"compile": "also what torch.compile makes of ours"})
    contest = contestants(options.device)
    table = Table(options, *PACKAGES, columns={"images": "<17", "task": "<9", **COMPARED})
    for height, width in QUICK[:1] if options.quick else INFERENCE:
        images = torch.randn(1, 3, height, width, device=options.device)
        modules = {**contest.inference(), **contest.rounded(options.compile, images)}
        rivals = {name: inferring(module, images, None) for name, module in modules.items()}
        table.compare(rivals, peer=SDPA, images=f"{height}x{width}", task="inference")
    sizes = QUICK if options.quick else TRAINING
    rivals = {
        name: learning(model.train(), loss) for name, (model, loss) in contest.losses(sizes, options.device).items()
    }
    table.compare(rivals, peer=SDPA, images=" + ".join(f"{h}x{w}" for h, w in sizes), task="training")
    plain, learned = (table.ratio(OURS, task=task) for task in ("inference", "training"))
    table.conclude(
        f"detrkit takes {plain:.2f} times the inference of transformers with sdpa ({table.ratio(FOLDED):.2f} folded, "
        f"{table.ratio(BF16):.2f} in bf16), "
        f"and {learned:.2f} times its training step."
    )


if __name__ == "__main__":
    main()
