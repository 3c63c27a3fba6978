"""The role `transforms`: how an image and its boxes are changed at random before the network sees them in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from detrkit.boxes import clip_xyxy, cxcywh_to_xyxy, xyxy_to_cxcywh
from detrkit.datasets import Target

if TYPE_CHECKING:
    from PIL.Image import Image


class Transforms(ABC):
    """Contract of the role. Keep it by handing the steps of a pipeline to ``__init__`` here.

    A step is a `torchvision.transforms.v2.Transform` of an image (PIL, mode RGB) and its boxes (float64, xyxy, in
    pixels). The last one gives the image the size that the network sees. Boxes keep number and order in every step: one
    whose object is to be dropped is left without extent, as v2's own crops leave it, and is dropped here.

    Laws: a drawn rectangle is found in the pixels where its box says; what is returned is an item as `Target` says; it
    depends only on the item and the seed; no global random generator moves; the number of objects never rises.

    Args:
        steps: the pipeline, first step first.
    """

    @abstractmethod
    def __init__(self, *steps: v2.Transform) -> None:
        self.pipeline = v2.Compose(steps)

    def __call__(self, image: Image, target: Target, seed: int) -> tuple[Image, Target]:
        """Change an item of a data set into another one.

        Args:
            image: mode RGB.
            target: what is to be found in it.
            seed: 32 bits, from which all is drawn that is left to chance.

        Returns:
            The image as the network sees it, and its target: boxes cut to it, objects that have left it dropped, and
            `orig_size` the size of this image, since of this one the boxes are fractions.
        """
        size = torch.tensor([image.width, image.height] * 2)
        pixels = cxcywh_to_xyxy(target["boxes"].double()) * size
        boxes = BoundingBoxes(pixels, format="XYXY", canvas_size=(image.height, image.width))
        with torch.random.fork_rng(devices=[]):  # v2 draws from the global generator of the CPU
            torch.default_generator.manual_seed(seed)
            image, boxes = self.pipeline(image, boxes)
        size = torch.tensor([image.width, image.height] * 2)
        inside = clip_xyxy(boxes.as_subclass(torch.Tensor), image.height, image.width)
        fractions = xyxy_to_cxcywh(inside / size).float()
        kept = (fractions[:, 2:] > 0).all(dim=1)
        return image, Target(
            boxes=fractions[kept],
            labels=target["labels"][kept],
            iscrowd=target["iscrowd"][kept],
            image_id=target["image_id"],
            orig_size=torch.tensor([image.height, image.width]),
        )
